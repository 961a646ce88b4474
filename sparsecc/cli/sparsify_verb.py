"""`sparsecc sparsify`: zeroes weights in a pattern, by magnitude or with data, and writes an .onnx file."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsecc.cli.options import (
    Verbs,
    add_calibration,
    add_source,
    add_sparsity,
    add_verb,
    check_out,
    read_shapes,
)
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import layer_table

_DETAILS = """\
Nothing is trained. Magnitude alone costs accuracy, the more the more is zeroed. With --calibration, some
batches of inputs like those that the network will see, the weights that stay make up for those that go, layer
by layer. `compile` uses the zeros of any model, whoever made them, so a model that was trained to be sparse
needs no `sparsify`."""
_EXAMPLES = """\
  sparsecc sparsify model.onnx -o sparse.onnx --pattern 4x1 --sparsity 0.8 --permute
  sparsecc sparsify model.onnx -o sparse.onnx --pattern 2:4 --skip 'head*'
  sparsecc sparsify model.onnx -o sparse.onnx --pattern unstructured --sparsity 0.5 --calibration data.npz
  sparsecc sparsify model.onnx -o sparse.onnx --sparsity 0.5 --calibration data.npz --reconstruct 6
  sparsecc sparsify train.py:make_model -o sparse.onnx --pattern unstructured --sparsity 0.9 --scope global"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs, "sparsify", "zero weights in a pattern, by magnitude or with data", _DETAILS, _EXAMPLES
    )
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    add_sparsity(parser)
    group = parser.add_argument_group("with data")
    add_calibration(group)
    group.add_argument(
        "--method",
        choices=("magnitude", "wanda", "gblm", "dsnot", "sparsegpt", "alps"),
        help="what goes and how the rest makes up for it (magnitude, with --calibration alps)",
    )
    group.add_argument(
        "--gradients",
        action="store_true",
        help="let gradients say what an error costs, and layers differ in their sparsity (PyTorch)",
    )
    group.add_argument(
        "--damping",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="pull towards the dense weights (%(default)s; more where the data are few or alike)",
    )
    group.add_argument(
        "--reconstruct",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="fit the weights that stay, block by block, by gradient (6 is a start; PyTorch)",
    )
    group.add_argument(
        "--bits",
        type=int,
        choices=(32, 8, 4),
        default=32,
        help="choose values that `quantize` keeps",
    )
    group.add_argument(
        "--resume", type=Path, metavar="FOLDER", help="keep what is finished there, and go on from it"
    )


def run(args: argparse.Namespace) -> int:
    """Sparsify, write, and show what became of each layer."""
    from sparsecc.cli.source import read_model, write_model
    from sparsecc.passes.criteria.calibration import read_calibration
    from sparsecc.sparsifier import sparsify

    check_out(args.out, force=args.force)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        inputs = [value.name or "" for value in model.graph.inputs]
        data = read_calibration(args.calibration, "--calibration", inputs) if args.calibration else None
        result = sparsify(
            model,
            args.pattern or "4x1",
            args.sparsity,
            scope=args.scope,
            skip=args.skip,
            min_size=args.min_size,
            permute=args.permute,
            method=args.method or ("magnitude" if data is None else "alps"),
            calibration=data,
            gradients=args.gradients,
            damping=args.damping,
            bits=args.bits,
            reconstruct=args.reconstruct,
            folder=args.resume,
            progress=progress,
        )
        progress("write", 0, 1)
        size = write_model(result.model, args.out)
    print(layer_table(result.layers, result.refusals))
    for note in result.notes:
        print(f"\n{note}")
    print(f"\n{args.out}: {result.zeros:.1%} of the weights are zero, {size} bytes")
    return 0
