"""MaxPool between equal codes: max(dequantized(q)) quantised alike is the maximum of the codes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from sparsecc.ir.edit import attribute_int, attribute_ints
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm
from sparsecc.targets.kernels.epilogue import Epilogue
from sparsecc.targets.kernels.maxpool_codes import STRIP, maxpool_codes_kernel
from sparsecc.targets.lower.call import padding
from sparsecc.targets.lower.codes import Codes
from sparsecc.targets.lower.regions import PlaneRegions
from sparsecc.targets.lower.state import Lowering, base, shape_of

_LARGEST_WINDOW = 25


def lower_pool_codes(low: Lowering, regions: PlaneRegions, node: ir.Node) -> bool:
    """Emit a MaxPool of words whose result is only quantised, with the input's scale and zero."""
    source = regions.codes.of(node.inputs[0])
    kernel = attribute_ints(node, "kernel_shape")
    if source is None or not source.planes or node.op_type != "MaxPool" or len(node.outputs) != 1:
        return False
    result = _quantised(regions, node.outputs[0])
    if result is None or (result.scale, result.zero) != (source.scale, source.zero):
        return False
    if kernel is None or prod(kernel) > _LARGEST_WINDOW or attribute_int(node, "storage_order", 0):
        return False
    x, y = low.words(source.value), low.buffer(regions.words(result), "int32", f"{result.value.name}.codes")
    stride = attribute_ints(node, "strides") or (1, 1)
    dilation = attribute_ints(node, "dilations") or (1, 1)
    size, out_size = source.shape[2:], result.shape[2:]
    pads = padding(node, size, out_size, kernel, stride, dilation)
    form = DepthwiseForm(
        (size[0], size[1]), (out_size[0], out_size[1]), (kernel[0], kernel[1]), (stride[0], stride[1]),
        (dilation[0], dilation[1]), (pads[0], pads[1]), x.layout.strides[2], y.layout.strides[2], 1,
        min(STRIP, out_size[0]), low.machine.lanes, Epilogue(),
    )  # fmt: skip
    symbol = low.kernel("maxpool_codes", form, lambda s: maxpool_codes_kernel(form, s))
    sides = [n for s in (x, y) for n in (s.layout.strides[1], s.layout.origin, s.layout.strides[0])]
    words = source.words[1]
    label = node.name or node.outputs[0].name or node.op_type
    low.step(label, "pool", symbol, [base(x), base(y)], [words, *sides], shape_of(node.outputs[0])[0] * words)
    low.define_words(result.value, y)
    return True


def _quantised(regions: PlaneRegions, value: ir.Value) -> Codes | None:
    """The codes that are all that anybody reads of a value."""
    readers = [reader for reader, _ in value.uses()]
    if len(readers) != 1 or value.is_graph_output() or readers[0].op_type != "QuantizeLinear":
        return None
    return regions.codes.of(readers[0].outputs[0])
