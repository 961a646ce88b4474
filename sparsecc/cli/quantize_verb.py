"""`sparsecc quantize`: stores weights in 8 or 4 bits and writes an .onnx file."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsecc.cli.options import Verbs, add_source, add_verb, check_out, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import table

_DETAILS = """\
Symmetric: 8 bits with a scale per output, or 4 bits with one per 32 inputs of an output. Nothing is
calibrated, activations stay float32. Linear layers with few columns run on the small weights; others are
turned back to float32 by `compile`. Sparsify first: zeros stay zeros."""
_EXAMPLES = """\
  sparsecc quantize sparse.onnx -o small.onnx
  sparsecc quantize model.onnx -o small.onnx --skip 'head*'
  sparsecc quantize decoder.onnx -o small.onnx --bits 4"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "quantize", "store weights in 8 or 4 bits", _DETAILS, _EXAMPLES)
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    parser.add_argument("--bits", type=int, default=8, choices=(8, 4), help="of a weight (%(default)s)")
    parser.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="layers to leave alone (may be repeated)"
    )
    parser.add_argument(
        "--min-size", type=int, default=1024, metavar="N", help="leave smaller weights alone (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Quantise, write, and show what stayed float32."""
    from sparsecc.cli.source import read_model, write_model
    from sparsecc.quantizer import quantize

    check_out(args.out, force=args.force)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        progress("quantize", 0, 1)
        result = quantize(model, args.bits, skip=args.skip, min_size=args.min_size)
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
