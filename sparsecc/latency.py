"""Time of a model over that of the dense one, predicted by the cost model or measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sparsecc.arrays import random_arrays
from sparsecc.artifact.manifest import TensorInfo
from sparsecc.compiler import build_plan, missing_features
from sparsecc.gauge import Gauge, lowered, prepared
from sparsecc.measurement import Trial, measure
from sparsecc.report.compile_report import LayerLine, layer_lines

if TYPE_CHECKING:
    import onnx_ir as ir


class Latency(Gauge):
    """Compares models with a dense one by their time.

    Args:
        target: as for `compile`.
        shapes: input name -> dims, for inputs with symbolic dimensions.
    """

    noise: ClassVar[float] = 0.03

    def __init__(self, target: str, shapes: Mapping[str, Sequence[int]] | None) -> None:
        super().__init__()
        self._target = target
        self._shapes = shapes


class PredictedLatency(Latency):
    """Compares models by the cost model: the sum over all layers with a weight.

    Args:
        model: the dense one.
        target: as for `compile`.
        shapes: input name -> dims, for inputs with symbolic dimensions.

    Raises:
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """

    def __init__(
        self, model: ir.Model, target: str = "cpu", shapes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        super().__init__(target, shapes)
        self._dense = sum(self._seconds(model).values())

    def costs(self, model: ir.Model) -> tuple[dict[str, float], float]:
        """See `Gauge`."""
        layers = {name: seconds / self._dense for name, seconds in self._seconds(model).items()}
        return layers, sum(layers.values())

    def _seconds(self, model: ir.Model) -> dict[str, float]:
        plan = lowered(model, self._target, self._shapes)
        lines = layer_lines(plan.report["layers"])
        return _by_name(lines, {line.node: line.predicted_seconds for line in lines})


class MeasuredLatency(Latency):
    """Compares models by running them in turns with the dense one on this machine, one thread.

    The compiled models live in a temporary folder until the context is left.

    Args:
        model: the dense one.
        target: as for `compile`; this machine must be able to run it.
        shapes: input name -> dims, for inputs with symbolic dimensions.

    Raises:
        LoweringError, UnsupportedOpError: the graph cannot be lowered or linked.
    """

    measured: ClassVar[bool] = True

    def __init__(
        self, model: ir.Model, target: str = "cpu", shapes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        super().__init__(target, shapes)
        self._count = 0
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsecc-")))
        plan = build_plan(prepared(model, shapes), target=target)
        self._inputs = random_arrays([TensorInfo(s.name, s.dtype, s.shape) for s in plan.inputs])
        self._dense = Trial(plan, self._folder / "dense.scc", None)
        self._stack.callback(self._dense.close)

    def costs(self, model: ir.Model) -> tuple[dict[str, float], float]:
        """See `Gauge`."""
        plan = build_plan(prepared(model, self._shapes), target=self._target)
        self._count += 1
        trial = Trial(plan, self._folder / f"variant{self._count}.scc", None)
        del plan
        try:
            found, dense = measure([trial, self._dense], self._inputs)
        finally:
            trial.close()
        layers = _by_name(found.layers, found.layer_seconds())
        return {
            name: seconds / dense.seconds for name, seconds in layers.items()
        }, found.seconds / dense.seconds


def open_latency(
    model: ir.Model, target: str = "cpu", shapes: Mapping[str, Sequence[int]] | None = None
) -> Latency:
    """Measured where this machine can run the target, else predicted; arguments and errors as there."""
    kind = PredictedLatency if missing_features(target) else MeasuredLatency
    return kind(model, target, shapes)


def _by_name(lines: Sequence[LayerLine], seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of nodes, added up for nodes that share a weight."""
    found: dict[str, float] = {}
    for line in lines:
        found[line.name] = found.get(line.name, 0.0) + seconds[line.node]
    return found
