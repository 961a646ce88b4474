"""What a model costs over what the dense one does, layer by layer: what a budget is of.

Time is in `latency.py`; here are weights that are not zero, and bytes of the artifact's weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from sparsecc.ir.weights import weight_uses
from sparsecc.report.compile_report import layer_lines

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.targets.plan import Plan


class Gauge(ABC):
    """Compares models with a dense one; a context manager.

    Attributes:
        measured: whether by running them.
        noise: share by which two looks at the same model may differ.
    """

    measured: ClassVar[bool] = False
    noise: ClassVar[float] = 0.002

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was made."""
        self._stack.close()

    @abstractmethod
    def costs(self, model: ir.Model) -> tuple[dict[str, float], float]:
        """Cost of each layer by the name of its weight, and of the model, over that of the dense one."""

    def share(self, model: ir.Model) -> float:
        """Cost of a model over that of the dense one."""
        return self.costs(model)[1]


class NonZeros(Gauge):
    """Compares models by their weights that are not zero, over all weights of the dense one.

    Args:
        model: the dense one; weights of convolutions and matrix products count, shared ones once.
    """

    def __init__(self, model: ir.Model) -> None:
        super().__init__()
        self._dense = sum(size for _, size in _weights(model).values())

    def costs(self, model: ir.Model) -> tuple[dict[str, float], float]:
        """See `Gauge`."""
        layers = {name: count / max(1, self._dense) for name, (count, _) in _weights(model).items()}
        return layers, sum(layers.values())


class WeightBytes(Gauge):
    """Compares models by the packed weights of their artifacts, indices and padding included.

    The kernels are those of the cost model; what several layers read counts for the first.

    Args:
        model: the dense one.
        target: as for `compile`, a CPU.
        shapes: input name -> dims, for inputs with symbolic dimensions.

    Raises:
        UsageError: no such target.
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """

    def __init__(
        self, model: ir.Model, target: str = "cpu", shapes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        super().__init__()
        self._target, self._shapes = target, shapes
        self._dense = self._plan(model).weights.nbytes

    def costs(self, model: ir.Model) -> tuple[dict[str, float], float]:
        """See `Gauge`."""
        plan = self._plan(model)
        layers = {name: size / self._dense for name, size in _bytes_of_layers(plan).items()}
        return layers, plan.weights.nbytes / self._dense

    def _plan(self, model: ir.Model) -> Plan:
        return lowered(model, self._target, self._shapes)


def lowered(model: ir.Model, target: str, shapes: Mapping[str, Sequence[int]] | None) -> Plan:
    """The plan of a model by the cost model, its kernels not compiled.

    Raises:
        UsageError: no such target, or one that is no CPU.
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """
    from sparsecc.targets.lower.graph import GraphLowering
    from sparsecc.targets.registry import cpu_for

    machine = cpu_for(target)
    return GraphLowering(prepared(model, shapes), machine).run("model", machine.name)


def prepared(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None) -> ir.Model:
    """A copy that went through the compile pipeline."""
    from sparsecc.ir.shapes import specialize_shapes
    from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline

    copy = model.clone()
    if shapes:
        specialize_shapes(copy, shapes)
    Pipeline.parse(COMPILE_PIPELINE).run(copy)
    return copy


def _weights(model: ir.Model) -> dict[str, tuple[int, int]]:
    """Values that are not zero, and all, by layer."""
    found: dict[str, tuple[int, int]] = {}
    for use in weight_uses(model):
        if use.value.const_value is not None and use.layer not in found:
            array = use.value.const_value.numpy()
            found[use.layer] = int(np.count_nonzero(array)), array.size
    return found


def _bytes_of_layers(plan: Plan) -> dict[str, int]:
    """Bytes of the packed weights that the steps of each layer read, by the layer's name."""
    read = [{ref.offset for ref in step.pointers if ref.space == "weights"} for step in plan.steps]
    places = sorted(set().union(*read))
    ends = dict(zip(places, [*places[1:], plan.weights.nbytes], strict=True))
    counted: set[int] = set()
    found: dict[str, int] = {}
    for line in layer_lines(plan.report["layers"]):
        mine = set().union(*(read[index] for index in line.steps)) - counted
        counted |= mine
        found[line.name] = found.get(line.name, 0) + sum(ends[place] - place for place in mine)
    return found
