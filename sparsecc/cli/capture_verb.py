"""`sparsecc capture`: a PyTorch module or ONNX file becomes an .onnx file in the form that passes work on."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparsecc.cli.options import Verbs, add_source, add_verb, check_out, read_shapes
from sparsecc.cli.progress import Progress

_DETAILS = """\
The result has one pinned opset, no functions and inferred shapes. What cannot be captured is refused with the
op, the node and a hint."""
_EXAMPLES = """\
  sparsecc capture model.onnx -o captured.onnx --shape x=1,3,224,224
  sparsecc capture train.py:make_model -o captured.onnx"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs, "capture", "turn a PyTorch module or an ONNX file into a graph", _DETAILS, _EXAMPLES
    )
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")


def run(args: argparse.Namespace) -> int:
    """Capture and write."""
    from sparsecc.cli.source import read_model, write_model

    check_out(args.out, force=args.force)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        progress("write", 0, 1)
        size = write_model(model, args.out)
    nodes = sum(1 for _ in model.graph.all_nodes())
    print(f"{args.out}: {nodes} nodes, {len(model.graph.initializers)} initializers, {size} bytes")
    for value in model.graph.inputs:
        print(f"input   {value.name}: {value.type} {value.shape}")
    for value in model.graph.outputs:
        print(f"output  {value.name}: {value.type} {value.shape}")
    return 0
