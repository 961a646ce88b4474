"""Time of a model over that of the dense one, predicted by the cost model or measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sparsecc.arrays import random_arrays
from sparsecc.artifact.manifest import TensorInfo
from sparsecc.compiler import build_plan
from sparsecc.measurement import Trial, measure
from sparsecc.report.compile_report import layer_lines

if TYPE_CHECKING:
    import onnx_ir as ir


class PredictedLatency:
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
        self._target = target
        self._shapes = shapes
        self._dense = self._seconds(model)

    def share(self, model: ir.Model) -> float:
        """Time of a model over that of the dense one."""
        return self._seconds(model) / self._dense

    def _seconds(self, model: ir.Model) -> float:
        from sparsecc.targets.lower.graph import GraphLowering
        from sparsecc.targets.registry import cpu_for

        machine = cpu_for(self._target)
        plan = GraphLowering(_prepared(model, self._shapes), machine).run("model", machine.name)
        return sum(line.predicted_seconds for line in layer_lines(plan.report["layers"]))


class MeasuredLatency:
    """Compares models by running them in turns with the dense one on this machine, one thread.

    A context manager: the compiled models live in a temporary folder until it is left.

    Args:
        model: the dense one.
        target: as for `compile`; this machine must be able to run it.
        shapes: input name -> dims, for inputs with symbolic dimensions.

    Raises:
        LoweringError, UnsupportedOpError: the graph cannot be lowered or linked.
    """

    def __init__(
        self, model: ir.Model, target: str = "cpu", shapes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._target = target
        self._shapes = shapes
        self._stack = ExitStack()
        self._count = 0
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsecc-")))
        plan = build_plan(_prepared(model, shapes), target=target)
        self._inputs = random_arrays([TensorInfo(s.name, s.dtype, s.shape) for s in plan.inputs])
        self._dense = Trial(plan, self._folder / "dense.scc", None)
        self._stack.callback(self._dense.close)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the compiled models."""
        self._stack.close()

    def share(self, model: ir.Model) -> float:
        """Time of a model over that of the dense one."""
        plan = build_plan(_prepared(model, self._shapes), target=self._target)
        self._count += 1
        trial = Trial(plan, self._folder / f"pruned{self._count}.scc", None)
        try:
            found, dense = measure([trial, self._dense], self._inputs)
        finally:
            trial.close()
        return found.seconds / dense.seconds


def _prepared(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None) -> ir.Model:
    """A copy that went through the compile pipeline."""
    from sparsecc.ir.shapes import specialize_shapes
    from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline

    copy = model.clone()
    if shapes:
        specialize_shapes(copy, shapes)
    Pipeline.parse(COMPILE_PIPELINE).run(copy)
    return copy
