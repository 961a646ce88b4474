"""Gradients and Hessian-vector products of a graph's loss over calibration data, through PyTorch."""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsecc.errors import UsageError, VerificationError
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.classes import LEAST_PROBABILITY, ROUNDING, class_axis
from sparsecc.torch import to_torch

Tensors = dict[str, Tensor]
"""By initializer name, each of its initializer's shape."""


class Derivatives:
    """The loss of a model as a function of its parameters, in evaluation mode.

    Args:
        model: as `sparsecc.capture` gives it.
        calibration: what the loss is taken on.
        wanted: names of the initializers to differentiate by; those that are no trained parameters are left
            out of all results.

    Raises:
        UnsupportedOpError: an op without a PyTorch form.
    """

    def __init__(self, model: ir.Model, calibration: Calibration, wanted: Container[str]) -> None:
        self._model = model
        self._calibration = calibration
        self._module = to_torch(model).eval()
        names: dict[str, str] = self._module.initializer_names
        self._parameters: Tensors = {}
        for path, parameter in self._module.named_parameters():
            chosen = path in names and names[path] in wanted
            parameter.requires_grad_(chosen)
            if chosen:
                self._parameters[names[path]] = parameter

    # arithmetic by parameter

    def weights(self) -> Tensors:
        """The parameters themselves."""
        return {name: parameter.detach() for name, parameter in self._parameters.items()}

    def zeros(self) -> Tensors:
        """Zeros."""
        return {name: torch.zeros_like(parameter) for name, parameter in self.weights().items()}

    def signs(self, seed: int, number: int) -> Tensors:
        """Random numbers of -1 and 1."""
        generator = np.random.default_rng([seed, number])
        return {
            name: torch.from_numpy(generator.integers(0, 2, tuple(weight.shape)) * 2 - 1).to(weight.dtype)
            for name, weight in self.weights().items()
        }

    def times_weight(self, tensors: Tensors) -> Tensors:
        """Each tensor times its parameter, in place."""
        weights = self.weights()
        return {name: tensor.mul_(weights[name]) for name, tensor in tensors.items()}

    def times_square(self, tensors: Tensors, factor: float) -> Tensors:
        """Each tensor times its parameter squared times a factor, in place."""
        weights = self.weights()
        return {
            name: tensor.mul_(weights[name]).mul_(weights[name]).mul_(factor)
            for name, tensor in tensors.items()
        }

    # derivatives

    def gradients(self) -> Iterator[Tensors]:
        """dL/dw of one batch after the other.

        Raises:
            UsageError: data or a loss that do not fit the model.
            VerificationError: a loss that is not finite.
        """
        for loss in self._losses():
            yield self._differentiate(loss)

    def gradient(self) -> Tensors:
        """dL/dw summed over all batches."""
        return self._total(self.gradients())

    def products(self, vectors: Tensors) -> Iterator[tuple[Tensors, Tensors]]:
        """(dL/dw, H v) of one batch after the other."""
        for loss in self._losses():
            gradient = self._differentiate(loss, create_graph=True)
            found = {name: tensor.detach().clone() for name, tensor in gradient.items()}
            slope = sum(
                ((tensor * vectors[name]).sum() for name, tensor in gradient.items() if tensor.requires_grad),
                start=torch.zeros(()),
            )
            yield found, self._differentiate(slope) if slope.requires_grad else self.zeros()

    def product(self, vectors: Tensors) -> Tensors:
        """H v summed over all batches."""
        return self._total(product for _, product in self.products(vectors))

    def _total(self, terms: Iterator[Tensors]) -> Tensors:
        total = self.zeros()
        for term in terms:
            for name, tensor in term.items():
                total[name].add_(tensor)
        return total

    def _differentiate(self, number: Tensor, create_graph: bool = False) -> Tensors:
        if not self._parameters:
            return {}
        found = torch.autograd.grad(
            number,
            list(self._parameters.values()),
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self._parameters, found, strict=True))

    def _losses(self) -> Iterator[Tensor]:
        for number, (batch, target) in enumerate(self._calibration.stream(self._model)):
            inputs = [
                torch.from_numpy(np.array(batch[value.name or ""])) for value in self._model.graph.inputs
            ]
            # The other kernels of attention have no second derivative.
            with sdpa_kernel(SDPBackend.MATH):
                result = self._module(*inputs)
            outputs: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
            wanted = None if target is None else torch.from_numpy(np.array(target))
            loss = (self._calibration.loss or default_loss)(outputs, wanted)
            yield _checked(loss, number)


def _checked(loss: object, number: int) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(f"the calibration loss gave {found}, expected a tensor of one number; take its mean")
    if not loss.requires_grad:
        raise UsageError(
            "the calibration loss does not depend on any parameter that can be pruned and has no gradient; "
            "compute it from the outputs it is given"
        )
    if not torch.isfinite(loss):
        raise VerificationError(
            f"the loss of calibration batch {number} is {loss.item()}, expected a finite number; "
            f"check the model on this batch"
        )
    return loss.reshape(())


def class_logits(output: Tensor) -> Tensor | None:
    """Logits [..., classes] of an output of logits or probabilities; None where it has no classes."""
    axis = class_axis(output.shape)
    if axis is None:
        return None
    found = output.movedim(axis, -1)
    seen = found.detach()
    if bool((seen >= 0).all()) and bool(((seen.sum(-1) - 1).abs() < ROUNDING).all()):
        return found.clamp(min=LEAST_PROBABILITY).log()
    return found


def _own_loss(output: Tensor) -> Tensor:
    logits = class_logits(output)
    if logits is None:
        return output.square().mean() / 2
    logits = logits.reshape(-1, logits.shape[-1])
    return functional.cross_entropy(logits, logits.argmax(-1))


def default_loss(outputs: tuple[Tensor, ...], target: Tensor | None) -> Tensor:
    """The loss where `Calibration.loss` is None, as described there.

    Raises:
        UsageError: a target whose shape does not fit the first output.
    """
    floats = [output for output in outputs if output.is_floating_point()]
    if not floats:
        raise UsageError(
            "the model has no floating-point output, so it has no loss of its own; give Calibration.loss"
        )
    first = floats[0]
    if target is None:
        rest = sum((output.square().mean() / 2 for output in floats[1:]), start=torch.zeros(()))
        return _own_loss(first) + rest
    if target.is_floating_point():
        if target.shape != first.shape:
            raise UsageError(
                f"a float target has the shape {list(target.shape)}, expected that of the first output, "
                f"{list(first.shape)}; reshape it or give Calibration.loss"
            )
        return functional.mse_loss(first, target.to(first.dtype))
    if target.shape == first.shape[:-1]:
        logits = first
    elif first.dim() > 1 and target.shape == first.shape[:1] + first.shape[2:]:
        logits = first.movedim(1, -1)
    else:
        raise UsageError(
            f"an integer target has the shape {list(target.shape)}, expected that of the first output, "
            f"{list(first.shape)}, without its class axis (the last, or axis 1); "
            f"reshape it or give Calibration.loss"
        )
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1).long())
