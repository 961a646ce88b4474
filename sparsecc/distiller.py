"""`distill`: train the weights that stay until a sparse model answers like the dense one, without labels.

The dense model's outputs on the data are the targets (Hinton et al. 2015). Zeros stay zeros, by
`SparseTraining` with the method `fixed`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.errors import UsageError, VerificationError
from sparsecc.host import multiplies_bfloat16
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.classes import NO_CLASSES, chosen_loss
from sparsecc.passes.criteria.differentiation import class_logits
from sparsecc.passes.one_shot_state import State, fingerprint
from sparsecc.torch import to_torch
from sparsecc.training import SparseTraining, distillation

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""
HELD_OUT = 16
"""Of so many batches one is not trained on, and says which weights are kept."""
LOOKS = 8
"""How often these batches are looked at in a run."""
WARM_UP = 0.05
"""Share of a run in which the rate rises."""
KEEP_SECONDS = 300.0
"""Between two states of a run that can be gone on with."""
_LEAST = 1e-3
"""Root mean square that a parameter is taken to have at least, for its rate."""
_Batch: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class DistillResult:
    """A trained model and how it came about.

    Attributes:
        model: a copy with other weights and the same zeros.
        before: loss on the held-out batches before training, nats or relative squared error.
        after: of the weights that were kept; at most `before`.
        steps: batches that were trained on.
        seconds: that training took, those of interrupted runs included.
        sparsity: share of zeros in the layers with zeros.
    """

    model: ir.Model
    before: float
    after: float
    steps: int
    seconds: float
    sparsity: float


def distill(
    model: ir.Model,
    teacher: ir.Model,
    calibration: Calibration,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    rate: float = 0.002,
    loss: str | None = None,
    seed: int = 0,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> DistillResult:
    """Train a model with zeros on the outputs of the dense one.

    Adam (Kingma and Ba 2015), one batch a step, whose rate warms up and then falls to 0 along half a cosine.
    One batch of 16, at least one, is held out; the weights that are best on those are the result, or those
    before training. Products are bfloat16 where the CPU multiplies that; weights and losses are float32.

    Args:
        model: with zeros, such as `sparsify` gives; not changed.
        teacher: the dense model, with the same inputs and outputs.
        calibration: inputs like those that the model will see, at least two batches; targets are not used.
        minutes: how long to train.
        steps: or how many batches; what comes first if both are given. Without either all batches once.
        rate: largest learning rate, as a share of the root mean square of each parameter.
        loss: kl, the Kullback-Leibler divergence of the first output's classes, along the axis that
            `Calibration` takes for them; squared, the relative squared errors of all outputs that are floats,
            for embeddings and other numbers; None: kl where the graph looks like a classifier or a language
            model, as `loss_of` has it.
        seed: of the order of the batches.
        resume: folder for the state of the run; the same call goes on there. Made if it does not exist.
        progress: told about every step.

    Raises:
        UsageError: data that do not fit, outputs that do not fit each other, less than two batches, no layer
            with zeros, or a folder of another run.
        VerificationError: a loss that is not finite.
        UnsupportedOpError: an op without a PyTorch form.
    """
    if (minutes is not None and not minutes > 0) or (steps is not None and steps < 1) or not rate > 0:
        raise UsageError("minutes, steps and rate are positive")
    loss = chosen_loss(loss, teacher)
    data = calibration.cut(model)
    batches = [_tensors(model, batch) for batch, _ in data.stream(model)]
    if len(batches) < 2:
        raise UsageError("distillation needs at least two batches: one is held out and says when to stop")
    if steps is None and minutes is None:
        steps = len(batches)
    torch.manual_seed(seed)
    training = SparseTraining(model, method="fixed", min_size=1)
    order = np.random.default_rng(seed).permutation(len(batches))
    held = max(1, len(batches) // HELD_OUT)
    run = _Run(
        training,
        to_torch(teacher),
        [batches[place] for place in order[:held]],
        [batches[place] for place in order[held:]],
        _Budget(minutes, steps),
        rate,
        loss,
        seed,
        progress or _silent,
    )
    if resume is not None:
        options = (minutes, steps, rate, loss, seed, fingerprint(teacher, data, ()))
        run.keep_in(State(resume, fingerprint(model, data, options)))
    return run.result()


@dataclass(frozen=True)
class _Budget:
    """How long a run is; one of both at least."""

    minutes: float | None
    steps: int | None

    def spent(self, steps: int, seconds: float) -> float:
        """Share of it."""
        shares = [steps / self.steps] if self.steps else []
        if self.minutes:
            shares.append(seconds / (60 * self.minutes))
        return min(1.0, max(shares))


class _Run:
    """One call of `distill`."""

    def __init__(
        self,
        training: SparseTraining,
        teacher: nn.Module,
        held_out: Sequence[_Batch],
        batches: Sequence[_Batch],
        budget: _Budget,
        rate: float,
        loss: str,
        seed: int,
        tell: Progress,
    ) -> None:
        self._training, self._teacher = training, teacher.requires_grad_(False)
        self._held_out, self._batches = held_out, batches
        self._budget, self._loss, self._seed, self._tell = budget, loss, seed, tell
        self._parameters = dict(training.module.named_parameters())
        self._rates = [
            rate * max(float(one.detach().square().mean().sqrt()), _LEAST)
            for one in self._parameters.values()
        ]
        self._optimizer = torch.optim.Adam({"params": [one]} for one in self._parameters.values())
        self._steps, self._seconds, self._looks = 0, 0.0, 0
        self._before = self._after = math.inf
        self._best: dict[str, Tensor] = {}
        self._state: State | None = None
        self._kept = time.monotonic()

    def keep_in(self, state: State) -> None:
        """Go on from a folder, if there is something in it, and keep the run there."""
        self._state = state
        arrays = state.read(0)
        if arrays is None:
            return
        self._steps, self._looks = int(arrays["steps"]), int(arrays["looks"])
        self._seconds, self._before, self._after = (
            float(arrays[name]) for name in ("seconds", "before", "after")
        )
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(arrays[f"now {name}"]))
                self._best[name] = torch.from_numpy(arrays[f"best {name}"])
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(self._steps)),
                    "exp_avg": torch.from_numpy(arrays[f"first {name}"]),
                    "exp_avg_sq": torch.from_numpy(arrays[f"second {name}"]),
                }

    def result(self) -> DistillResult:
        """Train to the end of the budget.

        Raises:
            VerificationError: a loss that is not finite.
        """
        if not self._best:
            self._before = self._after = self._held_out_loss()
            self._take()
        started = time.monotonic() - self._seconds
        while (spent := self._budget.spent(self._steps, self._seconds)) < 1:
            self._step(spent)
            self._seconds = time.monotonic() - started
            spent = self._budget.spent(self._steps, self._seconds)
            self._tell("distill", int(1000 * spent), 1000)
            if int(spent * LOOKS) > self._looks:
                self._looks = int(spent * LOOKS)
                found = self._held_out_loss()
                if found < self._after:
                    self._after = found
                    self._take()
                self._tell(f"{spent:.0%}: held-out loss {self._before:.4g} -> {found:.4g}", 1, 1)
            if time.monotonic() - self._kept > KEEP_SECONDS:
                self._keep()
        self._keep()
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._best[name])
        sparsity = self._training.sparsity
        return DistillResult(
            self._training.finish(), self._before, self._after, self._steps, self._seconds, sparsity
        )

    def _step(self, spent: float) -> None:
        factor = min(1.0, (spent + 1e-3) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * spent))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        epoch, place = divmod(self._steps, len(self._batches))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._batches))
        loss = self._error(self._batches[order[place]])
        if not torch.isfinite(loss):
            raise VerificationError(
                f"the loss is {loss.item()} after {self._steps} steps; check the data, or lower the rate"
            )
        loss.backward()
        self._optimizer.step()
        self._training.step()
        self._steps += 1

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        found = float(np.mean([float(self._error(batch)) for batch in self._held_out]))
        if not math.isfinite(found):
            raise VerificationError(f"the loss on the held-out batches is {found}; check the data")
        return found

    def _error(self, batch: _Batch) -> Tensor:
        """The loss of one batch, in float32."""
        # a context for each: autocast keeps its bfloat16 copies of weights until the outermost ends
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
            with torch.no_grad():
                theirs = _floats(self._teacher(*batch))
            ours = _floats(self._training.module(*batch))
        if [one.shape for one in ours] != [one.shape for one in theirs]:
            raise UsageError("the outputs of the sparse and the dense model have other shapes")
        if not ours:
            raise UsageError("the models have no floating-point output to learn from")
        if self._loss == "squared":
            return torch.stack([_squared(*pair) for pair in zip(ours, theirs, strict=True)]).sum()
        student, teacher = (class_logits(outputs[0]) for outputs in (ours, theirs))
        if student is None or teacher is None:
            raise UsageError(NO_CLASSES)
        return distillation(student, teacher, temperature=1.0)

    def _take(self) -> None:
        """Remember the weights as the best so far."""
        self._best = {name: one.detach().clone() for name, one in self._parameters.items()}

    def _keep(self) -> None:
        """Write the state of the run."""
        if self._state is None or self._steps == 0:
            return
        arrays: dict[str, np.ndarray] = {
            "steps": np.array(self._steps), "looks": np.array(self._looks),
            "seconds": np.array(self._seconds), "before": np.array(self._before),
            "after": np.array(self._after),
        }  # fmt: skip
        for name, parameter in self._parameters.items():
            state = self._optimizer.state[parameter]
            zeros = torch.zeros_like(parameter)
            arrays[f"now {name}"] = parameter.detach().numpy()
            arrays[f"best {name}"] = self._best[name].numpy()
            arrays[f"first {name}"] = state.get("exp_avg", zeros).numpy()
            arrays[f"second {name}"] = state.get("exp_avg_sq", zeros).numpy()
        self._state.write(0, arrays)
        self._kept = time.monotonic()


def _tensors(model: ir.Model, batch: Mapping[str, np.ndarray]) -> _Batch:
    return tuple(torch.from_numpy(np.array(batch[value.name or ""])) for value in model.graph.inputs)


def _floats(outputs: object) -> list[Tensor]:
    """The outputs that are floats, in float32."""
    given = outputs if isinstance(outputs, tuple) else (outputs,)
    return [one.float() for one in given if isinstance(one, Tensor) and one.is_floating_point()]


def _squared(ours: Tensor, theirs: Tensor) -> Tensor:
    return functional.mse_loss(ours, theirs) / theirs.square().mean().clamp(min=1e-30)


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody is told."""
