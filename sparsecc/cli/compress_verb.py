"""`sparsecc compress`: meets a latency with zeros and fewer bits, and writes an .onnx file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import (
    Verbs,
    add_calibration,
    add_latency,
    add_source,
    add_verb,
    check_out,
    read_shapes,
)
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import layer_table

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.compressor import CompressResult

_DETAILS = """\
Every option is tried on all layers: how long each takes then is measured on the target, how much the outputs
change on the calibration data is computed layer by layer. A dynamic programme picks an option for each layer,
and the whole is measured. With data, weights and activations of 8 bits are tried too, and what changes the
outputs least is taken. Nothing is trained."""
_EXAMPLES = """\
  sparsecc compress model.onnx -o small.onnx --latency 0.5x --calibration data.npz
  sparsecc compress model.onnx -o small.onnx --latency 0.3x --calibration data.npz --bits 32 --patterns 4x1
  sparsecc compile model.onnx -o model.scc --latency 0.5x --calibration data.npz"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "compress", "meet a latency with zeros and fewer bits", _DETAILS, _EXAMPLES)
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    parser.add_argument("--target", default="cpu", help="as for `compile` (%(default)s: this machine)")
    add_latency(parser, required=True)
    add_calibration(parser)
    parser.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="layers to leave alone (may be repeated)"
    )
    parser.add_argument(
        "--min-size", type=int, default=1024, metavar="N", help="leave smaller weights alone (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Compress, write, and show what became of each layer."""
    from sparsecc.cli.source import read_model, write_model

    check_out(args.out, force=args.force)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        result = compressed(model, args, shapes, progress)
        progress("write", 0, 1)
        size = write_model(result.model, args.out)
    show(result)
    print(f"{args.out}: {result.zeros:.1%} of the weights are zero, {size} bytes")
    return 0


def compressed(
    model: ir.Model, args: argparse.Namespace, shapes: dict[str, tuple[int, ...]], progress: Progress
) -> CompressResult:
    """What `compress` makes of a model with the options of the command line."""
    from sparsecc.compressor import compress
    from sparsecc.passes.criteria.calibration import read_calibration

    inputs = [value.name or "" for value in model.graph.inputs]
    data = read_calibration(args.calibration, "--calibration", inputs) if args.calibration else None
    return compress(
        model,
        args.latency,
        calibration=data,
        bits=args.bits,
        patterns=args.patterns,
        skip=args.skip,
        min_size=args.min_size,
        target=args.target,
        shapes=shapes,
        progress=progress,
    )


def show(result: CompressResult) -> None:
    """Print a table of the layers, what single patterns would cost, and the latency."""
    print(layer_table(result.layers, result.refusals))
    print()
    for other in result.uniform:
        if other.sparsity is None:
            print(f"{other.pattern} in all layers does not reach this latency")
        elif result.error > 0:
            print(
                f"{other.pattern} {other.sparsity:.0%} in all layers takes as long "
                f"and costs {other.error / result.error:.1f} times as much"
            )
    way = "measured" if result.measured else "predicted"
    changed = (
        "" if result.divergence is None else f", outputs change by {result.divergence:.2%} of their variance"
    )
    print(f"{result.latency:.2f} of the dense model's time ({way}), {result.bits} bits{changed}")
