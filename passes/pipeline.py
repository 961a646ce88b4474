"""`Pipeline`: passes in order, printed as a spec and parsed back, watched by hooks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.passes.base import Context, Pass, PassReport
from sparsecc.passes.hooks import Hook
from sparsecc.passes.spec import parse_passes, print_pass

COMPILE_PIPELINE = (
    "fold-dequantize,fold-constants,drop-dead,resolve-sequences,recognize-ops,simplify-layout,"
    "simplify-attention,fold-batch-norm,fold-pad,fuse-epilogues,drop-dead"
)
"""What `compile` runs on a graph with static shapes before it chooses kernels."""


@dataclass(frozen=True)
class Pipeline:
    """Passes to run in order; `str` gives the spec and `parse` reads it back.

    Attributes:
        passes: in order.
    """

    passes: tuple[Pass, ...] = ()

    @staticmethod
    def parse(text: str) -> Pipeline:
        """Read a spec such as `fold-constants,sparsify{pattern=4x1 sparsity=0.8}`.

        Raises:
            UsageError: bad syntax, an unknown pass or option, or a wrong value.
        """
        return Pipeline(parse_passes(text.strip()))

    def __str__(self) -> str:
        return ",".join(print_pass(item) for item in self.passes)

    def run(self, model: ir.Model, ctx: Context | None = None, hooks: Sequence[Hook] = ()) -> Context:
        """Apply all passes to `model` in place.

        Args:
            model: changed in place.
            ctx: gets one report per pass; a new one by default.
            hooks: called in the given order.

        Returns:
            The context.

        Raises:
            SparseccError: whatever a pass or hook raises.
        """
        ctx = Context() if ctx is None else ctx
        for hook in hooks:
            hook.start(model, ctx)
        for item in self.passes:
            started = time.perf_counter()
            result = item.apply(model, ctx)
            report = PassReport(print_pass(item), result, time.perf_counter() - started)
            ctx.reports.append(report)
            for hook in hooks:
                hook.after(item, model, report, ctx)
        return ctx
