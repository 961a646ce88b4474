"""`sparsecc quantize`: weights of 16, 8 or 4 bits, with data activations of 8 bits too, in an .onnx file."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsecc.cli.options import Verbs, add_source, add_verb, check_out, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import table

_DETAILS = """\
Weights are symmetric: 8 bits with a scale per output, or 4 bits with one per 32 inputs of an output; 16 bits
are bfloat16. Without data activations stay float32: linear layers with few columns run on the small weights,
and others are turned back to float32 by `compile`. With --calibration activations get 8 bits too, with ranges
found on the data: some batches of inputs like those that the network will see. Sparsify first: zeros stay
zeros."""
_EXAMPLES = """\
  sparsecc quantize sparse.onnx -o small.onnx
  sparsecc quantize model.onnx -o small.onnx --skip 'head*'
  sparsecc quantize decoder.onnx -o small.onnx --bits 4
  sparsecc quantize model.onnx -o int8.onnx --calibration data.npz --method percentile"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs, "quantize", "store weights in 16, 8 or 4 bits, activations in 8", _DETAILS, _EXAMPLES
    )
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    parser.add_argument("--bits", type=int, default=8, choices=(16, 8, 4), help="of a weight (%(default)s)")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="layers to leave alone (may be repeated)"
    )
    parser.add_argument(
        "--min-size",
        type=int,
        metavar="N",
        help="leave smaller weights alone (1024, with --calibration 0)",
    )
    group = parser.add_argument_group("activations in 8 bits")
    group.add_argument(
        "--calibration",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help=".npz with inputs by name, one batch or several on top of each other (may be repeated)",
    )
    group.add_argument("--method", help="how ranges are chosen: minmax (default), percentile or entropy")
    group.add_argument(
        "--percentile", type=float, metavar="P", help="values inside the range, for that method (99.999)"
    )
    group.add_argument(
        "--correct",
        action="store_true",
        help="choose codes and biases that keep the layers' outputs on the data, not the nearest; slower",
    )


def run(args: argparse.Namespace) -> int:
    """Quantise, write, and show what stayed float32."""
    from sparsecc.cli.source import read_model, write_model
    from sparsecc.passes.criteria.calibration import read_calibration
    from sparsecc.quantizer import quantize

    check_out(args.out, force=args.force)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        progress("quantize", 0, 1)
        inputs = [value.name or "" for value in model.graph.inputs]
        data = read_calibration(args.calibration, "--calibration", inputs) if args.calibration else None
        result = quantize(
            model,
            args.bits,
            calibration=data,
            method=args.method,
            percentile=args.percentile,
            correct=args.correct,
            skip=args.skip,
            min_size=args.min_size,
        )
        progress("write", 0, 1)
        size = write_model(result.model, args.out)
    if result.refusals:
        rows = [(refusal.where, refusal.reason) for refusal in result.refusals]
        print(table(("layer", "stayed float32 because"), rows))
        print()
    for note in result.notes:
        print(note)
    print(f"{args.out}: {size} bytes, weights {result.bytes_before} -> {result.bytes_after} bytes")
    return 0
