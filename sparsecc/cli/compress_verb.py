"""`sparsecc compress`: meets a budget with fewer channels, zeros and fewer bits, and writes an .onnx file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import (
    Verbs,
    add_budget,
    add_calibration,
    add_source,
    add_verb,
    check_out,
    read_shapes,
)
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import group_table, layer_table, table

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.compressor import CompressResult

_DETAILS = """\
Every option is tried on all layers: how long each takes then is measured on the target, how much the outputs
change on the calibration data is computed layer by layer. A dynamic programme picks an option for each layer,
and the whole is measured. With data, layers in 8 bits and networks with fewer channels are tried too, and
what changes the outputs least is taken. Nothing is trained."""
_EXAMPLES = """\
  sparsecc compress model.onnx -o small.onnx --latency 0.5x --calibration data.npz
  sparsecc compress model.onnx -o small.onnx --latency 0.3x --calibration data.npz --bits 32 --widths 1
  sparsecc compress model.onnx -o small.onnx --zeros 80% --calibration data.npz
  sparsecc compress model.onnx -o small.onnx --bytes 0.2x --calibration data.npz
  sparsecc compile model.onnx -o model.scc --latency 0.5x --calibration data.npz"""
_GOALS = {
    "latency": "of the dense model's time",
    "zeros": "of the weights are not zero",
    "bytes": "of the bytes of the dense weights",
}


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs,
        "compress",
        "meet a latency or a size with fewer channels, zeros and fewer bits",
        _DETAILS,
        _EXAMPLES,
    )
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    parser.add_argument("--target", default="cpu", help="as for `compile` (%(default)s: this machine)")
    add_budget(parser, required=True)
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

    check_outs(args)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        result = compressed(model, args, shapes, progress)
        progress("write", 0, 1)
        size = write_model(result.model, args.out)
        save_plan(result, args)
    show(result)
    print(f"{args.out}: {result.zeros:.1%} of the weights are zero, {size} bytes")
    return 0


def check_outs(args: argparse.Namespace) -> None:
    """Refuse to replace files without being asked to.

    Raises:
        UsageError: one exists, or its folder does not.
    """
    for path in (args.out, args.save_plan):
        if path is not None:
            check_out(path, force=args.force)


def save_plan(result: CompressResult, args: argparse.Namespace) -> None:
    """Write which channels stay, where that is asked for and some went."""
    if args.save_plan is None:
        return
    if result.pruned is None:
        print(f"all channels stay: {args.save_plan} is not written")
    else:
        result.pruned.plan.save(args.save_plan)


def compressed(
    model: ir.Model, args: argparse.Namespace, shapes: dict[str, tuple[int, ...]], progress: Progress
) -> CompressResult:
    """What `compress` makes of a model with the options of the command line.

    Raises:
        VerificationError: the latency was missed; the model is written beside the output.
    """
    from sparsecc.cli.source import write_model
    from sparsecc.compressor import MissedBudgetError, compress
    from sparsecc.errors import VerificationError
    from sparsecc.passes.criteria.calibration import read_calibration

    inputs = [value.name or "" for value in model.graph.inputs]
    data = read_calibration(args.calibration, "--calibration", inputs) if args.calibration else None
    try:
        return compress(
            model,
            args.latency,
            zeros=args.zeros,
            bytes=args.bytes,
            calibration=data,
            widths=args.widths,
            bits=args.bits,
            patterns=args.patterns,
            loss=args.loss,
            skip=args.skip,
            min_size=args.min_size,
            target=args.target,
            shapes=shapes,
            progress=progress,
        )
    except MissedBudgetError as error:
        kept = args.out.with_suffix(".missed.onnx")
        write_model(error.result.model, kept)
        raise VerificationError(f"{error}; what was made is in {kept}") from error


def show(result: CompressResult) -> None:
    """Print what became of channels and layers, what else was considered, and what it costs."""
    if result.pruned is not None:
        print(group_table(result.pruned.groups))
        print()
    print(layer_table(result.layers, result.refusals))
    narrow = [name for name, option in result.options.items() if option.bits < 32]
    if narrow and len(result.bits) > 1:
        print(f"\nin 8 bits: {', '.join(narrow)}")
    print()
    for other in result.uniform:
        name = other.pattern if other.bits == 32 else f"{other.pattern} in {other.bits} bits"
        if other.sparsity is None:
            print(f"{name} in all layers does not reach this")
        elif result.error > 0 and result.pruned is None:
            print(
                f"{name} {other.sparsity:.0%} in all layers costs as much "
                f"and changes the outputs {other.error / result.error:.1f} times as much"
            )
    if len(result.candidates) > 1:
        rows = [
            (
                f"{one.width:.0%}",
                " or ".join(map(str, one.bits)),
                one.pattern,
                "" if one.divergence is None else _change(one.divergence, result.loss),
                one.note,
            )
            for one in result.candidates
        ]
        print(f"\n{table(('#width', 'bits', 'pattern', '#change', ''), rows)}\n")
    way = "measured" if result.measured else "predicted" if result.goal == "latency" else "counted"
    bits = " and ".join(map(str, result.bits))
    wide = "" if result.pruned is None else f", channels for {result.width:.0%} of the FLOPs"
    changed = ""
    if result.divergence is not None:
        of = "" if result.loss == "kl" else " of their variance"
        changed = f", outputs change by {_change(result.divergence, result.loss)}{of}"
    print(f"{result.cost:.2f} {_GOALS[result.goal]} ({way}), {bits} bits{wide}{changed}")


def _change(divergence: float, loss: str) -> str:
    return f"{divergence:.4g} nats" if loss == "kl" else f"{divergence:.3%}"
