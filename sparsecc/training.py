"""Training with zeros: masks that every optimiser step keeps, and how they come about while training.

    training = SparseTraining(model, "4x1", 0.8, method="gradual", steps=1000)
    optimizer = torch.optim.AdamW(training.module.parameters())
    for x, y in batches:
        loss = cross_entropy(training.module(x), y)
        loss.backward()
        optimizer.step()
        training.step()          # in place of optimizer.zero_grad()
    sparse = training.finish()   # a model for `compile`

Masks are parametrisations of the module's weights, so the products see zeros whatever the optimiser does to
the numbers behind them. The backward pass is PyTorch's and dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import replace_constant
from sparsecc.ir.encoding import as_matrix, encoding_of, fits, from_matrix, set_encoding
from sparsecc.ir.provenance import record
from sparsecc.passes.sparsify import Layer, Sparsify, keep_mask
from sparsecc.torch.convert import to_torch

METHODS = ("fixed", "gradual", "sr-ste", "rigl", "st-3")
_DECAY = 2e-4
"""Of SR-STE: what pulls weights that are zero now towards zero (Zhou et al. 2021, table 1)."""
_REPLACED = 0.3
"""Of RigL: the share of weights that first changes places (Evci et al. 2020)."""
_STOP = 0.75
"""Share of the steps after which masks stay as they are."""


class SparseTraining:
    """A model as a PyTorch module whose weights have zeros in a pattern while it is trained.

    Methods:
        fixed: the zeros that the weights have already stay, such as those of `sparsify`; pattern and sparsity
            are not looked at, and layers without zeros are trained as they are.
        gradual: magnitude pruning by a schedule that starts fast and ends slowly (Zhu and Gupta 2017).
        sr-ste: each forward pass uses the largest weights, each backward pass moves all of them, and those
            that are not used decay (Zhou et al. 2021); made for N:M, runs with every pattern.
        rigl: from the given sparsity on, the smallest weights go and those with the largest gradients come,
            ever fewer (Evci et al. 2020). With pattern fan-in every output keeps its number of weights, which
            is SRigL (Lasby et al. 2024) without its ablation of outputs.
        st-3: soft thresholds that rise by gradual's schedule, with gradients straight through them
            (Vanholder 2023).

    Attributes:
        module: to be trained; make the optimiser from its parameters.
        refusals: layers that stay dense, and why.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        pattern: unstructured, N:M such as 2:4, RxC such as 4x1, or fan-in.
        sparsity: share of zeros at the end, at least 0 and under 1; N:M fixes it.
        scope: "layer" for the same share in every layer, or "erk" for more weights where a layer is small,
            which is RigL's own (see `passes.ratios.erk`).
        method: one of `METHODS`.
        steps: calls of `step` that training will take; masks stop changing after three quarters of them.
        every: steps between changes of masks; sr-ste and st-3 change them in each.
        skip: layer or parameter names to leave alone, or globs.
        min_size: weights with fewer elements are left alone.

    Raises:
        UsageError: a method, pattern or sparsity that does not exist or that contradict, or no layer for it.
        UnsupportedOpError: an op without a PyTorch form.
    """

    def __init__(
        self,
        model: ir.Model,
        pattern: str = "unstructured",
        sparsity: float | None = None,
        *,
        method: str = "gradual",
        scope: str = "layer",
        steps: int = 1000,
        every: int = 50,
        skip: tuple[str, ...] = (),
        min_size: int = 1024,
    ) -> None:
        if method not in METHODS:
            raise UsageError(f"the method is one of {', '.join(METHODS)}, not {method!r}")
        if steps < 1 or every < 1:
            raise UsageError(f"steps and the steps between changes are at least 1, not {steps} and {every}")
        if sparsity is None:
            sparsity = -1.0 if ":" in pattern else 0.8
        if scope not in ("layer", "erk"):
            raise UsageError(f"the scope is layer or erk, not {scope!r}")
        item = Sparsify(pattern, sparsity, scope, skip=tuple(skip), min_size=min_size)
        encoding = item.encoding()
        if method == "rigl" and encoding.pattern == "n:m":
            raise UsageError("rigl moves weights between groups, which N:M forbids; sr-ste is made for N:M")
        self._model, self._method, self._encoding = model, method, encoding
        self._steps, self._every, self._done = steps, every, 0
        self._last = max(1, math.floor(_STOP * steps))
        self.module = to_torch(model)
        layers, self.refusals = item.layers(model)
        goals = item.shares(layers)
        if encoding.pattern == "n:m":
            goals = dict.fromkeys(goals, 1 - encoding.n / encoding.m)
        paths = {name: path for path, name in self.module.initializer_names.items()}
        self._weights: list[_Weight] = []
        for layer in layers:
            path = paths.get(layer.use.value.name or "")
            if method == "fixed" and _has_no_zero(layer.use.value):
                continue
            if path is None:
                why = Refusal(f"{layer.use.layer} is no parameter of the module", layer.use.layer, "constant")
                self.refusals = (*self.refusals, why)
                continue
            self._weights.append(self._masked(layer, path, goals[layer.use.layer]))
        if not self._weights:
            if method == "fixed":
                raise UsageError("no layer has zeros; make the model sparse first, with `sparsify`")
            raise UsageError("no layer can be made sparse; " + "; ".join(map(str, self.refusals)))
        if method != "fixed":
            self._update(first=True)

    @property
    def sparsity(self) -> float:
        """Share of zeros in the weights that the products see now."""
        zeros = sum(int((weight.tensor == 0).sum()) for weight in self._weights)
        return zeros / sum(weight.tensor.numel() for weight in self._weights)

    def step(self) -> None:
        """After the optimiser's step: clears gradients, and changes masks when it is time."""
        self._done += 1
        if self._is_due():
            self._update()
        self.module.zero_grad(set_to_none=True)
        if self._method == "rigl":
            for weight in self._weights:
                weight.mask.seen = None

    def finish(self) -> ir.Model:
        """A copy of the model with the trained parameters and exact zeros; the module has plain weights then.

        Raises:
            UsageError: the zeros are not as many as asked for, since training ended too early.
        """
        if self._method != "fixed" and self._due() < 1 - 1e-9:
            raise UsageError(
                f"training ended after {self._done} of {self._steps} steps, when {self._due():.0%} of the "
                f"zeros were due; take all steps, or give fewer of them"
            )
        for weight in self._weights:
            if parametrize.is_parametrized(weight.owner, weight.name):
                parametrize.remove_parametrizations(weight.owner, weight.name, leave_parametrized=True)
        held = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        copy = self._model.clone()
        for path, name in self.module.initializer_names.items():
            value = copy.graph.initializers[name]
            assert value.const_value is not None
            array = held[path].detach().cpu().numpy().astype(value.const_value.dtype.numpy())
            replace_constant(value, array.reshape(value.const_value.shape.numpy()) + 0)  # no -0
        for weight in self._weights:
            value = copy.graph.initializers[weight.layer.use.value.name or ""]
            assert value.const_value is not None
            array, axis = value.const_value.numpy(), weight.layer.use.axis
            wanted = self._encoding
            given = self._method != "fixed" and fits(array, wanted, axis)
            set_encoding(value, wanted if given else encoding_of(array, axis))
            record(value, "sparse-training")
        return copy

    def _masked(self, layer: Layer, path: str, goal: float) -> _Weight:
        """Put a parametrisation on a parameter."""
        parent, _, name = path.rpartition(".")
        owner = self.module.get_submodule(parent)
        tensor = getattr(owner, name)
        if self._method == "sr-ste":
            mask: _Mask = _StraightThrough(torch.ones_like(tensor), _DECAY)
        elif self._method == "st-3":
            mask = _SoftThreshold(torch.zeros_like(tensor))
        else:
            mask = _Mask(
                (tensor != 0).to(tensor.dtype) if self._method == "fixed" else torch.ones_like(tensor),
                watched=self._method == "rigl",
            )
        parametrize.register_parametrization(owner, name, mask)
        return _Weight(layer, owner, name, mask, goal)

    def _is_due(self) -> bool:
        """Whether masks change in this step."""
        if self._method == "fixed":
            return False
        if self._method in ("sr-ste", "st-3"):  # the share of zeros stays while weights move
            return True
        return self._done == self._last or (self._done % self._every == 0 and self._done < self._last)

    def _due(self) -> float:
        """Share of the zeros at the end that is due now."""
        if self._method in ("sr-ste", "rigl") or self._encoding.pattern == "n:m":
            return 1.0
        return 1 - (1 - min(1.0, self._done / self._last)) ** 3

    @torch.no_grad()
    def _update(self, *, first: bool = False) -> None:
        for weight in self._weights:
            values, share = weight.original, weight.goal * self._due()
            if self._method == "rigl" and not first:
                self._move(weight, share)
            else:
                weight.mask.follow(values, torch.from_numpy(self._keep(weight, values.abs(), share)))

    def _move(self, weight: _Weight, share: float) -> None:
        """RigL: the smallest weights go, those with the largest gradients come and start at 0."""
        gradient = weight.mask.seen
        if gradient is None:
            return
        part = _REPLACED / 2 * (1 + math.cos(math.pi * self._done / self._last))
        values, before = weight.original, weight.mask.mask
        stay = torch.from_numpy(self._keep(weight, (values * before).abs(), 1 - (1 - share) * (1 - part)))
        # where gradients are 0, as of outputs that a ReLU cuts off, what went comes back
        scores = gradient.abs() / gradient.abs().max().clamp(min=1e-30) + 1e-6 * before + 1e-12
        after = torch.from_numpy(self._keep(weight, torch.where(stay, 10.0, scores), share))
        values.copy_(torch.where(after & (before == 0), 0.0, values))
        weight.mask.mask.copy_(after)

    def _keep(self, weight: _Weight, scores: Tensor, share: float) -> np.ndarray:
        """Which elements stay, in the parameter's shape."""
        array, axis = scores.detach().cpu().numpy(), weight.layer.use.axis
        keep = keep_mask(as_matrix(array, axis), self._encoding, share)
        return from_matrix(keep, array.shape, axis)


def _has_no_zero(value: ir.Value) -> bool:
    return value.const_value is not None and bool(np.all(value.const_value.numpy() != 0))


def distillation(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """How far a student's classes are from its teacher's (Hinton et al. 2015), to be added to the loss.

    Args:
        student: logits [..., classes].
        teacher: logits of the dense model on the same inputs.
        temperature: by which both are divided.

    Returns:
        The Kullback-Leibler divergence in nats, averaged over all but the classes, times temperature².
    """
    if student.shape != teacher.shape:
        raise UsageError(f"logits are {tuple(student.shape)} and {tuple(teacher.shape)}: they must be alike")
    ours = functional.log_softmax(student.flatten(0, -2) / temperature, -1)
    theirs = functional.log_softmax(teacher.detach().flatten(0, -2) / temperature, -1)
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class _Mask(nn.Module):
    """weight -> weight x mask; if watched, sees the gradient of what the products saw, zeros included."""

    mask: Tensor

    def __init__(self, mask: Tensor, *, watched: bool = False) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.watched = watched
        self.seen: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        masked = weight * self.mask
        if self.watched and masked.requires_grad:
            masked.register_hook(self._see)
        return masked

    def _see(self, gradient: Tensor) -> None:
        self.seen = gradient if self.seen is None else self.seen + gradient

    def follow(self, weight: Tensor, keep: Tensor) -> None:
        """Take the mask for these weights."""
        self.mask.copy_(keep)


class _StraightThrough(_Mask):
    """SR-STE: weight -> weight x mask, whose gradient reaches all weights, with decay where the mask is 0."""

    def __init__(self, mask: Tensor, decay: float) -> None:
        super().__init__(mask)
        self._decay = decay

    def forward(self, weight: Tensor) -> Tensor:
        return _Refined.apply(weight, self.mask, self._decay)  # pyright: ignore[reportReturnType]


class _Refined(torch.autograd.Function):
    """Equation 9 of Zhou et al. 2021."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return gradients[0] + ctx.decay * (1 - mask) * weight, None, None


class _SoftThreshold(_Mask):
    """ST-3: weights shrink by a threshold, scaled to the same sum; gradients go straight through.

    The mask holds the threshold of each weight: 0 leaves it as it is.
    """

    def forward(self, weight: Tensor) -> Tensor:
        shrunk = weight.sign() * (weight.abs() - self.mask).clamp(min=0)
        scale = weight.detach().abs().sum() / shrunk.detach().abs().sum().clamp(min=1e-30)
        return weight + (shrunk * scale - weight).detach()

    def follow(self, weight: Tensor, keep: Tensor) -> None:
        """Thresholds above all weights that go, and one for those that stay: the largest of the others."""
        gone = weight.abs().masked_fill(keep, 0.0)
        threshold = gone.max()
        self.mask.copy_(torch.where(keep, torch.minimum(threshold, weight.abs() * 0.999), torch.inf))


@dataclass(frozen=True)
class _Weight:
    """A weight that is masked, and its share of zeros at the end."""

    layer: Layer
    owner: nn.Module
    name: str
    mask: _Mask
    goal: float

    @property
    def original(self) -> Tensor:
        """The numbers that the optimiser moves."""
        return self.owner.parametrizations[self.name].original  # pyright: ignore

    @property
    def tensor(self) -> Tensor:
        """What the products see."""
        with torch.no_grad():
            return getattr(self.owner, self.name)
