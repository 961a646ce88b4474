"""`sparsecc distill`: trains the weights that stay on the dense model's outputs, and writes an .onnx file."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsecc.cli.options import (
    Verbs,
    add_calibration,
    add_loss,
    add_source,
    add_verb,
    check_out,
    read_shapes,
)
from sparsecc.cli.progress import Progress

_DETAILS = """\
Needs no labels: what the dense model (--teacher) answers to the inputs of --calibration is the target, and
zeros stay zeros. One batch of 16 is held out; the weights that are best on those are written, or those from
before. Give as many inputs as there are, and an hour: `sparsify --calibration` alone takes minutes and comes
first. With --resume an interrupted run goes on, at most five minutes behind."""
_EXAMPLES = """\
  sparsecc distill sparse.onnx --teacher dense.onnx -o better.onnx --calibration data.npz --minutes 60
  sparsecc distill sparse.onnx --teacher dense.onnx -o better.onnx --calibration a.npz b.npz --steps 2000 \\
      --resume state
  sparsecc distill encoder.onnx --teacher dense.onnx -o better.onnx --calibration data.npz --loss squared"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "distill",
        "train a sparse model on the dense one's outputs, without labels",
        _DETAILS,
        _EXAMPLES,
    )
    add_source(parser)
    parser.add_argument("--teacher", metavar="SOURCE", required=True, help="the dense model")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    group = parser.add_argument_group("training")
    add_calibration(group)
    group.add_argument("--minutes", type=float, metavar="N", help="how long (without both: all data once)")
    group.add_argument("--steps", type=int, metavar="N", help="how many batches")
    group.add_argument(
        "--rate",
        type=float,
        default=0.002,
        metavar="SHARE",
        help="largest learning rate, as a share of each parameter's root mean square (%(default)s)",
    )
    add_loss(group)
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the order (%(default)s)")
    group.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="keep the state of the run there, and go on from it"
    )


def run(args: argparse.Namespace) -> int:
    """Train and write."""
    from sparsecc.cli.source import read_model, write_model
    from sparsecc.distiller import distill
    from sparsecc.errors import UsageError
    from sparsecc.passes.criteria.calibration import read_calibration

    check_out(args.out, force=args.force)
    if not args.calibration:
        raise UsageError("distill needs inputs: give --calibration data.npz")
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        teacher = read_model(args.teacher, shapes)
        inputs = [value.name or "" for value in model.graph.inputs]
        data = read_calibration(args.calibration, "--calibration", inputs)
        result = distill(
            model, teacher, data, minutes=args.minutes, steps=args.steps, rate=args.rate, loss=args.loss,
            seed=args.seed, resume=args.resume, progress=progress,
        )  # fmt: skip
        progress("write", 0, 1)
        size = write_model(result.model, args.out)
    print(
        f"held-out loss {result.before:.4g} -> {result.after:.4g} in {result.steps} steps, "
        f"{result.seconds / 60:.1f} minutes"
    )
    print(f"{args.out}: {result.sparsity:.1%} of the weights of layers with zeros are zero, {size} bytes")
    return 0
