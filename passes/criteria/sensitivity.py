"""How much the outputs of a model change when one layer does: the sensitivity of each layer.

One weight is replaced at a time in a PyTorch copy of the model, which runs on a few batches (Frantar and
Alistarh 2022, SPDY). For many layers the change J d of the outputs is estimated to first order instead: with
random v of mean 0 and variance 1, (v' J d)² is ||J d||² on average (Hutchinson 1990), and one backward pass
gives v' J for all layers. Where the outputs are classes, v is the gradient of the loss of classes drawn from
the model's own answers: (v' J d)² is then twice the Kullback-Leibler divergence on average, since the
gradients' covariance is the Fisher information (Martens 2020, New Insights and Perspectives on the Natural
Gradient Method).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sparsecc.errors import UsageError, VerificationError
from sparsecc.host import multiplies_bfloat16
from sparsecc.passes.criteria.classes import NO_CLASSES, class_divergence

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Generator, Tensor

    from sparsecc.passes.criteria import Calibration

PROJECTIONS = 16
"""Random v: the estimate of a layer is off by about a third of itself."""
Batch = Mapping[str, np.ndarray]
Outputs = Sequence[np.ndarray]


def divergence(outputs: Iterable[Outputs], expected: Iterable[Outputs], loss: str = "squared") -> float:
    """How far outputs are from others.

    Args:
        outputs, expected: for each batch the outputs in the graph's order.
        loss: squared, ||found - expected||² / ||expected - mean||², averaged over a model's outputs of
            floats; or kl, the divergence of the first output's classes as `class_divergence` has it.

    Raises:
        UsageError: no output of floats, or for kl none with classes.
        VerificationError: the expected outputs are NaN or infinite.
    """
    return class_divergence(outputs, expected) if loss == "kl" else _squared(outputs, expected)


def _squared(outputs: Iterable[Outputs], expected: Iterable[Outputs]) -> float:
    sums: dict[int, list[float]] = {}
    for found, wanted in zip(outputs, expected, strict=True):
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if not np.issubdtype(other.dtype, np.floating):
                continue
            exact, near = other.astype(np.float64), one.astype(np.float64)
            if not np.isfinite(exact).all():
                raise VerificationError(f"output {place} of the model is NaN or infinite on these data")
            total = sums.setdefault(place, [0.0, 0.0])
            total[0] += float(np.square(near - exact).sum())
            total[1] += _spread(exact)
    if not sums:
        raise UsageError("the model has no output of floats, so nothing says how much it changes")
    return float(np.mean([change / max(size, 1e-30) for change, size in sums.values()]))


def _spread(array: np.ndarray) -> float:
    """||array - mean||²."""
    exact = array.astype(np.float64, copy=False)
    return float(np.square(exact - exact.mean()).sum())


class Sensitivity:
    """Runs a model with single weights replaced.

    Args:
        model: dense, as `sparsecc.capture` gives it.
        calibration: inputs.
        loss: as for `divergence`.

    Raises:
        UsageError: data that do not fit the model, or outputs that do not fit the loss.
        UnsupportedOpError: an op without a PyTorch form.
    """

    def __init__(self, model: ir.Model, calibration: Calibration, loss: str = "squared") -> None:
        import torch

        from sparsecc.torch.convert import to_torch

        self._torch, self._loss = torch, loss
        self._module = to_torch(model).requires_grad_(False)
        held = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        self._tensors = {name: held[path] for path, name in self._module.initializer_names.items()}
        names = [value.name or "" for value in model.graph.inputs]
        self._batches = [
            [torch.from_numpy(batch[name]) for name in names] for batch, _ in calibration.stream(model)
        ]
        self._expected = self._run()

    def of(self, weights: Mapping[str, np.ndarray]) -> float:
        """Divergence of the outputs with these initializers replaced, the others as they are."""
        kept = {name: self._tensors[name].detach().clone() for name in weights}
        try:
            self._set(weights)
            return divergence(self._run(), self._expected, self._loss)
        finally:
            with self._torch.no_grad():
                for name, tensor in kept.items():
                    self._tensors[name].copy_(tensor)

    def estimates(
        self, changes: Mapping[str, Mapping[str, np.ndarray]], *, seed: int = 0
    ) -> dict[str, float]:
        """About what `of` gives for each of many changes, to first order and at one price for all.

        Args:
            changes: by a name, the initializers that are replaced together.
            seed: of the random numbers, which are the same for all changes.
        """
        torch = self._torch
        steps = {
            key: {name: torch.from_numpy(np.array(array)) - self._tensors[name].detach()
                  for name, array in weights.items()}
            for key, weights in changes.items()
        }  # fmt: skip
        wanted = sorted({name for weights in changes.values() for name in weights})
        parts = self._classes if self._loss == "kl" else self._numbers
        generator = torch.Generator().manual_seed(seed)
        found = dict.fromkeys(changes, 0.0)
        for name in wanted:
            self._tensors[name].requires_grad_(True)
        for batch in self._batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
                result = self._module(*batch)
            draw = parts(result if isinstance(result, tuple) else (result,), generator)
            for number in range(PROJECTIONS):
                gradients = torch.autograd.grad(
                    draw(), [self._tensors[name] for name in wanted],
                    retain_graph=number + 1 < PROJECTIONS, allow_unused=True, materialize_grads=True,
                )  # fmt: skip
                by_name = dict(zip(wanted, gradients, strict=True))
                for key, weights in steps.items():
                    moved = sum(float((by_name[name] * step).sum()) for name, step in weights.items())
                    found[key] += moved**2 / PROJECTIONS
        for name in wanted:
            self._tensors[name].requires_grad_(False)
        return found

    @cached_property
    def _sizes(self) -> list[float]:
        """||output - mean||² of each output over all batches."""
        return [sum(map(_spread, arrays)) for arrays in zip(*self._expected, strict=True)]

    def _numbers(self, outputs: Sequence[Tensor], generator: Generator) -> Callable[[], Tensor]:
        """Sums of the outputs with random signs and sizes, whose squares are the squared loss on average."""
        pairs = zip(outputs, self._sizes, strict=True)
        floats = [(out.float(), size) for out, size in pairs if out.is_floating_point()]

        def draw() -> Tensor:
            parts = [
                (self._torch.randn(out.shape, generator=generator) * out).sum()
                / (len(floats) * max(size, 1e-30)) ** 0.5
                for out, size in floats
            ]
            return self._torch.stack(parts).sum()

        return draw

    def _classes(self, outputs: Sequence[Tensor], generator: Generator) -> Callable[[], Tensor]:
        """Losses of classes that are drawn, whose gradients' squares are the divergence on average."""
        from sparsecc.passes.criteria.differentiation import class_logits

        place = next((number for number, out in enumerate(outputs) if out.is_floating_point()), None)
        logits = None if place is None else class_logits(outputs[place].float())
        if place is None or logits is None:
            raise UsageError(NO_CLASSES)
        rows = logits.reshape(-1, logits.shape[-1]).log_softmax(-1)
        shares = rows.detach().exp()
        answers = sum(arrays[place].size for arrays in self._expected) // rows.shape[-1]

        def draw() -> Tensor:
            classes = self._torch.multinomial(shares, 1, generator=generator)
            return -rows.gather(1, classes).sum() / (2 * answers) ** 0.5

        return draw

    def _set(self, weights: Mapping[str, np.ndarray]) -> None:
        with self._torch.no_grad():
            for name, array in weights.items():
                self._tensors[name].copy_(self._torch.from_numpy(np.array(array)))

    def _run(self) -> list[list[np.ndarray]]:
        with self._torch.no_grad():
            found = [self._module(*batch) for batch in self._batches]
        return [[tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))] for out in found]
