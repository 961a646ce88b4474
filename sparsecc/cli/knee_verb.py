"""`sparsecc knee`: shows up to which share of zeros one-shot pruning hardly changes the outputs."""

from __future__ import annotations

import argparse

from sparsecc.cli.options import Verbs, add_calibration, add_source, add_verb, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import table
from sparsecc.errors import UsageError

_DETAILS = """\
The model is made sparse at once, by magnitude or another method, at 10 to 95 % zeros, and its outputs on the
data are compared with the dense model's. The knee is the share of zeros behind which they change fast.
Nothing is written."""
_EXAMPLES = """\
  sparsecc knee model.onnx --calibration data.npz
  sparsecc knee model.onnx --calibration data.npz --pattern 4x1 --method sparsegpt"""
_WIDTH = 40


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "knee", "show how many zeros a model bears at once", _DETAILS, _EXAMPLES)
    add_source(parser)
    add_calibration(parser)
    parser.add_argument(
        "--pattern", default="unstructured", help="unstructured, RxC such as 4x1, or fan-in (%(default)s)"
    )
    parser.add_argument(
        "--method",
        choices=("magnitude", "wanda", "sparsegpt", "alps"),
        default="magnitude",
        help="what goes and how the rest makes up for it (%(default)s)",
    )
    parser.add_argument(
        "--scope", choices=("layer", "global", "erk", "owl"), default="layer", help="as for `sparsify`"
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="layers to leave alone (may be repeated)"
    )
    parser.add_argument(
        "--min-size", type=int, default=1024, metavar="N", help="leave smaller weights alone (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the curve and its knee."""
    from sparsecc.cli.source import read_model
    from sparsecc.knee import knee
    from sparsecc.passes.criteria.calibration import read_calibration

    if not args.calibration:
        raise UsageError("outputs are compared on data: give some with --calibration")
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, read_shapes(args.shape))
        inputs = [value.name or "" for value in model.graph.inputs]
        found = knee(
            model,
            read_calibration(args.calibration, "--calibration", inputs),
            args.pattern,
            method=args.method,
            scope=args.scope,
            skip=args.skip,
            min_size=args.min_size,
            progress=progress,
        )
    rows = [
        (f"{share:.0%}", f"{damage:.3%}", "#" * round(_WIDTH * min(damage, 1.0)))
        for share, damage in zip(found.sparsities, found.damages, strict=True)
    ]
    print(table(("#zeros", "#change", ""), rows))
    print(f"\nup to {found.sparsity:.0%} {found.pattern} zeros change the outputs little")
    return 0
