"""What watches a pipeline: verify, compare numbers, time, print and dump; never code inside a pass."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import onnx_ir as ir

from sparsecc.errors import VerificationError
from sparsecc.ir.dump import dump
from sparsecc.ir.evaluate import evaluate, random_inputs
from sparsecc.ir.verify import check
from sparsecc.passes.base import Context, Pass, PassReport


class Hook:
    """Called around every pass; the base does nothing."""

    def start(self, model: ir.Model, ctx: Context) -> None:
        """Before the first pass."""

    def after(self, item: Pass, model: ir.Model, report: PassReport, ctx: Context) -> None:
        """After each pass."""


class VerifyEach(Hook):
    """Run the verifier before the first pass and after each; raises VerificationError naming the pass."""

    def start(self, model: ir.Model, ctx: Context) -> None:
        check(model)

    def after(self, item: Pass, model: ir.Model, report: PassReport, ctx: Context) -> None:
        check(model, after=item.name)


@dataclass
class CompareNumerics(Hook):
    """Evaluate on random inputs after each pass and compare with before.

    Passes that change numbers by design set a new reference. The inputs are drawn anew from the same seed
    where a pass changes their shapes.

    Attributes:
        tolerance: largest difference allowed, relative to the largest absolute value of each output.
    """

    tolerance: float = 1e-4
    _inputs: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray], init=False)
    _reference: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray], init=False)

    def start(self, model: ir.Model, ctx: Context) -> None:
        self._inputs = random_inputs(model, ctx.seed)
        self._reference = evaluate(model, self._inputs)

    def after(self, item: Pass, model: ir.Model, report: PassReport, ctx: Context) -> None:
        if not report.result.changed:
            return
        inputs = random_inputs(model, ctx.seed)
        same = all(array.shape == self._inputs[name].shape for name, array in inputs.items())
        if not same or not item.keeps_numbers:
            self.start(model, ctx)
            return
        for name, found in evaluate(model, self._inputs).items():
            difference = relative_difference(found, self._reference[name])
            if not difference <= self.tolerance:
                raise VerificationError(
                    f"after {item.name}: output {name} differs by {difference:.3g} relative to its largest "
                    f"value, more than {self.tolerance:g}"
                )


@dataclass
class TimePasses(Hook):
    """Write one line with the seconds of each pass.

    Attributes:
        stream: where to; standard error by default.
    """

    stream: TextIO | None = None

    def after(self, item: Pass, model: ir.Model, report: PassReport, ctx: Context) -> None:
        print(f"{report.seconds:8.3f} s  {report.spec}", file=self.stream or sys.stderr)


@dataclass
class PrintAfter(Hook):
    """Print the text of the model after passes.

    Attributes:
        names: passes to print after; empty means all.
        stream: where to; standard output by default.
    """

    names: tuple[str, ...] = ()
    stream: TextIO | None = None

    def after(self, item: Pass, model: ir.Model, report: PassReport, ctx: Context) -> None:
        if not self.names or item.name in self.names:
            print(f"// after {report.spec}\n{dump(model)}", file=self.stream or sys.stdout)


@dataclass
class DumpDir(Hook):
    """Write the text of the model to `00-input.txt`, `01-<pass>.txt`, ... in a folder, made if missing.

    Attributes:
        folder: where to.
    """

    folder: Path

    def start(self, model: ir.Model, ctx: Context) -> None:
        self._write("00-input.txt", model)

    def after(self, item: Pass, model: ir.Model, report: PassReport, ctx: Context) -> None:
        self._write(f"{len(ctx.reports):02}-{item.name}.txt", model)

    def _write(self, name: str, model: ir.Model) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(dump(model), encoding="utf-8")


def relative_difference(found: np.ndarray, reference: np.ndarray) -> float:
    """Largest absolute difference over the largest absolute reference value; infinity where shapes differ."""
    if found.shape != reference.shape:
        return float("inf")
    if found.size == 0 or np.array_equal(found, reference):
        return 0.0
    difference = np.abs(found.astype(np.float64) - reference.astype(np.float64)).max()
    largest = np.abs(reference.astype(np.float64)).max()
    return float(difference / largest) if largest else float("inf")
