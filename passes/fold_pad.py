"""Let convolutions do the padding before them.

Conv(Pad(x, [0,0,1,1, 0,0,1,1]), w) {pads=[0,0,0,0]}  ->  Conv(x, w) {pads=[1,1,1,1]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import attribute_ints, constant_of, owner_graph
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class FoldPad(Pass):
    """Add the pads of a Pad by zeros to those of the Conv that reads it.

    The Pad goes when all its readers have taken it in. Other modes, other values than zero, negative pads,
    and padding of the batch or channel axis are refusals.
    """

    name: ClassVar[str] = "fold-pad"
    summary: ClassVar[str] = "fold padding by zeros into convolutions"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Fold every Pad into every Conv that reads it."""
        refusals: list[Refusal] = []
        folded = 0
        for conv in list(model.graph.all_nodes()):
            source = conv.inputs[0] if conv.domain == "" and conv.op_type == "Conv" else None
            pad = None if source is None else source.producer()
            if pad is None or pad.domain != "" or pad.op_type != "Pad" or pad.graph is not conv.graph:
                continue
            reason = _reason_against(pad, conv)
            if reason:
                text = f"{node_text(pad)} stays: {reason}"
                refusals.append(Refusal(text, pad.name or pad.op_type, "not-foldable"))
                continue
            _fold(pad, conv)
            folded += 1
        notes = (f"folded {folded} pads into convolutions",) if folded else ()
        return PassResult(bool(folded), tuple(refusals), notes)


def _reason_against(pad: ir.Node, conv: ir.Node) -> str:
    """Why the pad cannot be folded, or the empty text."""
    mode = pad.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return f"its mode is {mode.as_string()}"
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    fill = constant_of(value)
    if value is not None and (fill is None or fill.any()):
        return "it does not pad by a constant zero"
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return "it names axes"
    pads = constant_of(pad.inputs[1])
    if pads is None or (pads < 0).any():
        return "its pads are not constant or they crop"
    if pads.reshape(2, -1)[:, :2].any():
        return "it pads the batch or channel axis"
    auto = conv.attributes.get("auto_pad")
    if auto is not None and auto.as_string() not in ("NOTSET", "VALID"):
        return f"{node_text(conv)} pads automatically"
    return ""


def _fold(pad: ir.Node, conv: ir.Node) -> None:
    pads = constant_of(pad.inputs[1])
    added = np.zeros((2, 2), np.int64) if pads is None else pads.reshape(2, -1)
    spatial = added[:, 2:].reshape(-1)
    present = np.array(attribute_ints(conv, "pads") or (0,) * spatial.size)
    conv.attributes["pads"] = ir.AttrInt64s("pads", [int(number) for number in present + spatial])
    conv.attributes.pop("auto_pad", None)
    conv.replace_input_with(0, pad.inputs[0])
    result = pad.outputs[0]
    if not result.uses() and not result.is_graph_output():
        owner_graph(pad).remove(pad, safe=True)
