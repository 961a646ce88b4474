"""`sparsecc sweep`: quality and latency over patterns, shares of zeros and methods, table and picture."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from sparsecc.cli.options import (
    Verbs,
    add_calibration,
    add_evaluation,
    add_source,
    add_verb,
    read_shapes,
)
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import table

_DETAILS = """\
Each cell of the grid is made sparse, evaluated as `eval` does, and timed beside the dense model. Finished
cells are files in the folder: the same command goes on where an interrupted one stopped. joblib runs the
cells; a Dask or Ray cluster is another --backend."""
_EXAMPLES = """\
  sparsecc sweep model.onnx -o sweep --data test.npz --task classification
  sparsecc sweep model.onnx -o sweep --data photos.npz --task agreement --calibration train.npz \\
      --methods magnitude sparsegpt alps --patterns unstructured 4x1 2:4 --sparsities 0.5 0.7 0.9 --jobs 2"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "sweep", "quality and latency over a grid of zeros", _DETAILS, _EXAMPLES)
    add_source(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="the folder for cells, table and picture"
    )
    add_evaluation(parser)
    add_calibration(parser)
    parser.add_argument("--patterns", nargs="+", default=["unstructured", "4x1"], metavar="PATTERN")
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.7, 0.9], metavar="SHARE")
    parser.add_argument("--methods", nargs="+", default=["magnitude"], metavar="METHOD")
    parser.add_argument(
        "--min-size", type=int, default=1024, metavar="N", help="leave smaller weights alone (%(default)s)"
    )
    parser.add_argument("--target", default="cpu", help="of the latency (%(default)s: this machine)")
    parser.add_argument("--backend", default="loky", help="joblib's (%(default)s: processes here)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Sweep, draw, and print a table."""
    from sparsecc.cli.source import read_model
    from sparsecc.passes.criteria.calibration import read_calibration
    from sparsecc.sweeper import draw, sweep

    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, {})
        inputs = [value.name or "" for value in model.graph.inputs]
        data = read_calibration(args.data, "--data", inputs)
        calibration = (
            read_calibration(args.calibration, "--calibration", inputs) if args.calibration else None
        )
        result = sweep(
            model, args.out, task=args.task, data=data, calibration=calibration, patterns=args.patterns,
            sparsities=args.sparsities, methods=args.methods, min_size=args.min_size, target=args.target,
            shapes=shapes or None, backend=args.backend, jobs=args.jobs, seed=args.seed, progress=progress,
        )  # fmt: skip
        draw(result, args.out / "sweep.png")
    rows = [
        (cell.name, f"{cell.zeros:.1%}", f"{cell.score:.4g}", f"[{cell.low:.4g}, {cell.high:.4g}]",
         f"{cell.latency:.2f}" if math.isfinite(cell.latency) else "", cell.error)
        for cell in result.cells
    ]  # fmt: skip
    print(table(("cell", "#zeros", f"#{result.task}", "interval", "#time / dense", "not made because"), rows))
    print(f"\ndense {result.dense:.4g}; {args.out / 'sweep.png'} has the curves")
    return 0
