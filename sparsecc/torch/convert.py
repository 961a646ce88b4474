"""to_torch: an ONNX graph becomes an fx.GraphModule, one call per node, parameters under their own names.

Values that a shape is computed from stay Python numbers, so no data is read and dynamic dimensions work under
torch.export; what depends on constants only is computed once, when the module is made.
"""

from __future__ import annotations

import inspect
import keyword
import operator
import re
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from sparsecc.errors import UnsupportedOpError, UsageError
from sparsecc.ir.edit import attribute_float, attribute_int
from sparsecc.ir.fused import is_fused
from sparsecc.ir.opset import OPSET
from sparsecc.ir.verify import node_text
from sparsecc.torch import numbers
from sparsecc.torch.dtypes import tensor_of, torch_dtype
from sparsecc.torch.module import BatchNorm, ConvertedModule, Names, attach, parameter_or_buffer
from sparsecc.torch.numbers import NUMBER_OPS, SOURCES
from sparsecc.torch.op import SUPPLIED, Op
from sparsecc.torch.parameters import is_parameter
from sparsecc.torch.table import OPS

DTYPE_ATTRIBUTES = frozenset(
    ("to", "dtype", "stash_type", "softmax_precision", "output_datatype", "precision")
)
FOLD_ELEMENTS = 1 << 12
"""Results and inputs up to this size are computed when the module is made, to find shapes in them."""
NUMBERED = re.compile(r"val_\d+")
"""Names that torch's exporter numbers constants by, and would give again to other values."""


def to_torch(model: ir.Model) -> ConvertedModule:
    """Turn a graph into a PyTorch module that computes the same, can be trained, traced and captured again.

    The module takes the graph's inputs in order, or by keyword where their names are identifiers, and returns
    its output, or a tuple of them. It is in eval mode; in train mode BatchNormalization uses the batch and
    moves its running statistics, and Dropout drops. Parameters and buffers are copies of the initializers
    under their names, tied ones stay one; names that torch cannot take are changed as `Names` says, and
    `module.initializer_names` maps every name of a parameter or buffer to its initializer. Which floats are
    parameters, `sparsecc.torch.parameters` says. Initializers that only say shapes, axes and the like are
    part of the code, and those that no node reads are left out.

    Args:
        model: a graph at the pinned opset, as `sparsecc.capture` gives; it is not changed.

    Raises:
        UsageError: another opset.
        UnsupportedOpError: an op, attribute or type without a PyTorch form, or a fused call.
    """
    opset = model.opset_imports.get("")
    if opset != OPSET:
        raise UsageError(
            f"the model is at opset {opset}, expected {OPSET}; pass it through sparsecc.capture first"
        )
    return _Converter(model).module()


class _Converter:
    """The state of one conversion: what each value of the graph is in the fx graph.

    A value may be known (a constant), numbers (an fx node that gives Python numbers), a tensor (an fx node
    that gives a tensor or a list of them), or several of these; each form is made when it is first asked for.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._graph = fx.Graph()
        self._root = nn.Module()
        self._known: dict[ir.Value, Tensor] = {}
        self._numbers: dict[ir.Value, fx.Node] = {}
        self._tensors: dict[ir.Value, fx.Node] = {}
        self._folded: dict[ir.Value, ir.Node] = {}
        self._stored: dict[ir.Value, Tensor] = {}
        self._initializer_names: dict[str, str] = {}
        self._device: fx.Node | None = None
        self._names = Names(list(model.graph.initializers))

    def module(self) -> ConvertedModule:
        """Convert everything."""
        self._add_inputs()
        for value in self._model.graph.initializers.values():
            if value.const_value is None:
                raise UsageError(f"initializer {value.name} has no data; capture the model with its weights")
            if not value.is_graph_input():
                self._add_stored(value, value.const_value, is_parameter(value))
        for node in self._model.graph:
            self._convert(node)
        outputs = [self._tensor(value) for value in self._model.graph.outputs]
        self._graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        return ConvertedModule(self._root, self._graph, self._initializer_names)

    def _add_inputs(self) -> None:
        taken: set[str] = set()
        for value in self._model.graph.inputs:
            _check_type(value, f"input {value.name}")
            name = _identifier(value.name or "input", taken)
            self._tensors[value] = self._graph.placeholder(name)
        tensors = [v for v in self._model.graph.inputs if not isinstance(v.type, ir.SequenceType)]
        if tensors:
            self._device = self._graph.call_function(getattr, (self._tensors[tensors[0]], "device"))

    def _add_stored(self, value: ir.Value, tensor: ir.TensorProtocol, trained: bool) -> None:
        """An initializer, or the tensor of a Constant node; it is attached when a call needs the tensor."""
        if tensor.dtype == ir.DataType.STRING:
            return
        stored = parameter_or_buffer(tensor_of(tensor), trained)
        self._stored[value] = stored
        if not trained:
            self._known[value] = stored

    def _convert(self, node: ir.Node) -> None:
        self._check_op(node)
        for output in node.outputs:
            _check_type(output, node_text(node))
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            if tensor is None:
                raise UnsupportedOpError(
                    f"{node_text(node)} holds no tensor of numbers, which PyTorch has no form of"
                )
            self._add_stored(node.outputs[0], tensor, False)
        elif node.op_type == "Dropout" or self._has_statistics(node):
            self._convert_to_module(node)
        elif node.op_type in SOURCES:
            self._convert_source(node)
        elif not self._fold(node) and not self._convert_numbers(node):
            self._emit(node)

    def _check_op(self, node: ir.Node) -> None:
        if is_fused(node):
            raise UnsupportedOpError(
                f"{node_text(node)} is a fused call, which only the compiler reads; "
                f"give to_torch the model from before the compile pipeline"
            )
        if attribute_int(node, "training_mode", 0):
            raise UnsupportedOpError(
                f"{node_text(node)} is in training mode; export the model in inference mode, "
                f"train() switches it later"
            )
        if node.domain not in ("", "ai.onnx"):
            raise UnsupportedOpError(
                f"{node_text(node)} is of the domain {node.domain}, not of ONNX itself; "
                f"sparsecc.capture inlines functions, replace other ops"
            )
        if (
            node.op_type not in OPS
            and node.op_type not in SOURCES
            and node.op_type not in ("Constant", "Dropout")
        ):
            control = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
            hint = (
                "fix the branch or unroll the loop before exporting" if control else "replace it by other ops"
            )
            raise UnsupportedOpError(f"{node_text(node)} has no PyTorch form here; {hint}")

    def _has_statistics(self, node: ir.Node) -> bool:
        """Whether it is a batch norm with running mean and variance among the initializers."""
        return node.op_type == "BatchNormalization" and all(
            value in self._stored for value in node.inputs[3:5]
        )

    def _convert_to_module(self, node: ir.Node) -> None:
        """BatchNormalization and Dropout, which act differently in training."""
        if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
            raise UnsupportedOpError(
                f"{node_text(node)} is asked for its {len(node.outputs)} outputs, expected one; "
                f"export the model in inference mode"
            )
        if node.op_type == "Dropout":
            ratio = node.inputs[1] if len(node.inputs) > 1 else None
            if ratio is not None and ratio not in self._known:
                raise UnsupportedOpError(f"{node_text(node)} computes its ratio; make the ratio a constant")
            part: nn.Module = nn.Dropout(0.5 if ratio is None else float(self._known[ratio]))
            inputs = node.inputs[:1]
        else:
            momentum = 1 - attribute_float(node, "momentum", 0.9)
            part = BatchNorm(attribute_float(node, "epsilon", 1e-5), momentum)
            inputs = node.inputs
        path = self._names.path(node.op_type.lower() + "_0")
        while hasattr(self._root, path):
            path = self._names.path(path)
        attach(self._root, path, part)
        arguments = tuple(self._tensor(value) for value in inputs)
        self._tensors[node.outputs[0]] = self._graph.call_module(path, arguments)

    def _convert_source(self, node: ir.Node) -> None:
        """Shape, Size and SequenceLength; of an initializer they are known."""
        (source,) = node.inputs
        assert source is not None
        stored = self._stored.get(source, self._known.get(source))
        op, attributes = SOURCES[node.op_type], self._attributes(node, SOURCES[node.op_type])
        if stored is not None:
            self._known[node.outputs[0]] = torch.tensor(op.function(stored, **attributes), dtype=torch.int64)
            self._folded[node.outputs[0]] = node
        else:
            self._numbers[node.outputs[0]] = self._call(op, (self._tensor(source),), attributes, node)

    def _fold(self, node: ir.Node) -> bool:
        """Compute a small result of known inputs now; its call is made only if the tensor is asked for."""
        op = OPS[node.op_type]
        inputs = [None if value is None else self._known.get(value) for value in node.inputs]
        if node.op_type == "CastLike" and node.outputs[0].dtype is not None:
            # Only the type of its second input counts, so the first being known is enough.
            inputs[1] = torch.zeros((), dtype=torch_dtype(node.outputs[0].dtype, node_text(node)))
        given = [tensor for tensor in inputs if tensor is not None]
        if not op.pure or len(given) != sum(value is not None for value in node.inputs):
            return False
        if any(isinstance(output.type, ir.SequenceType) for output in node.outputs):
            return False
        sizes = [tensor.numel() for tensor in given]
        if node.op_type in ("ConstantOfShape", "Expand"):
            sizes.append(int(given[-1].clamp(min=1).prod()))
        if max(sizes, default=0) > FOLD_ELEMENTS:
            return False
        arguments = [
            None if tensor is None else tensor.tolist() if self._takes_number(op, index, tensor) else tensor
            for index, tensor in enumerate(inputs)
        ]
        result = op.function(*arguments, **self._attributes(node, op))
        results = result if isinstance(result, tuple | list) else (result,)
        for output, tensor in zip(node.outputs, results, strict=False):
            self._known[output] = tensor
            self._folded[output] = node
        return True

    def _convert_numbers(self, node: ir.Node) -> bool:
        """An op on numbers and known vectors stays among numbers."""
        op = NUMBER_OPS.get(node.op_type)
        given = [value for value in node.inputs if value is not None]
        shape = node.outputs[0].shape
        if (
            op is None
            or shape is None
            or len(shape) > 1
            or not any(value in self._numbers for value in given)
        ):
            return False
        if any(value not in self._numbers and not self._is_vector(value) for value in given):
            return False
        arguments = tuple(None if value is None else self._number(value) for value in node.inputs)
        self._numbers[node.outputs[0]] = self._call(op, arguments, self._attributes(node, op), node)
        return True

    def _is_vector(self, value: ir.Value) -> bool:
        known = self._known.get(value)
        return known is not None and known.dim() <= 1 and known.numel() <= FOLD_ELEMENTS

    def _emit(self, node: ir.Node) -> None:
        """One call for the node, and one for each of several outputs."""
        op = OPS[node.op_type]
        attributes = self._attributes(node, op)
        if op.most_inputs is not None and len(node.inputs) > op.most_inputs:
            raise UnsupportedOpError(
                f"{node_text(node)} has {len(node.inputs)} inputs, expected {op.most_inputs}"
            )
        arguments = tuple(self._argument(op, index, value) for index, value in enumerate(node.inputs))
        result = self._call(op, arguments, attributes, node)
        if attributes.get("outputs", len(node.outputs)) == 1:
            self._tensors[node.outputs[0]] = result
            return
        for index, output in enumerate(node.outputs):
            if output.uses() or output.is_graph_output():
                self._tensors[output] = self._graph.call_function(operator.getitem, (result, index))

    def _argument(self, op: Op, index: int, value: ir.Value | None) -> Any:
        if value is None:
            return None
        if index in op.numbers:
            return self._number(value)
        known = self._known.get(value)
        if known is not None and self._takes_number(op, index, known):
            return known.tolist()
        return self._tensor(value)

    @staticmethod
    def _takes_number(op: Op, index: int, known: Tensor) -> bool:
        return index in op.numbers or (index in op.constants and known.dim() == 0)

    def _attributes(self, node: ir.Node, op: Op) -> dict[str, Any]:
        """Keyword arguments: attributes that the function understands, and what the converter supplies."""
        found: dict[str, Any] = {}
        for name, attribute in node.attributes.items():
            if name in SUPPLIED:
                continue
            if name not in op.keywords:
                raise UnsupportedOpError(
                    f"{node_text(node)} has the attribute {name}, which has no PyTorch form here"
                )
            if attribute.type == ir.AttributeType.TENSOR:
                tensor = tensor_of(attribute.as_tensor())
                found |= {"value": tensor.reshape(()).item(), "dtype": tensor.dtype}
            elif name in DTYPE_ATTRIBUTES:
                number = attribute.as_int()
                found[name] = torch_dtype(ir.DataType(number), node_text(node)) if number else None
            else:
                found[name] = _plain(attribute)
        for name in op.required - found.keys():
            raise UnsupportedOpError(f"{node_text(node)} lacks the attribute {name}, which ONNX demands")
        return found | self._supplied(node, op)

    def _supplied(self, node: ir.Node, op: Op) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "outputs" in op.keywords:
            used = [i for i, v in enumerate(node.outputs) if v.name and (v.uses() or v.is_graph_output())]
            found["outputs"] = len(node.outputs) if node.op_type == "Split" else max(used, default=0) + 1
        if "output_dtype" in op.keywords and node.outputs[0].dtype is not None:
            found["output_dtype"] = torch_dtype(node.outputs[0].dtype, node_text(node))
        return found

    def _tensor(self, value: ir.Value | None) -> fx.Node:
        """The fx node that gives the value as a tensor or a list of tensors."""
        assert value is not None
        if value not in self._tensors:
            if value in self._stored:
                self._tensors[value] = self._attached(value)
            elif value in self._folded:
                self._emit_folded(self._folded[value])
            elif value in self._numbers:
                dtype = (
                    torch.int64 if value.dtype is None else torch_dtype(value.dtype, f"value {value.name}")
                )
                op = Op(numbers.to_tensor)
                self._tensors[value] = self._call(op, (self._numbers[value],), {"output_dtype": dtype}, None)
            else:
                raise UnsupportedOpError(
                    f"value {value.name} is not computed by any node that PyTorch has a form of"
                )
        return self._tensors[value]

    def _emit_folded(self, node: ir.Node) -> None:
        if node.op_type in SOURCES:
            known = self._known[node.outputs[0]]
            attributes = {"output_dtype": torch.int64}
            self._tensors[node.outputs[0]] = self._call(
                Op(numbers.to_tensor), (known.tolist(),), attributes, None
            )
        else:
            self._emit(node)

    def _attached(self, value: ir.Value) -> fx.Node:
        """Put a stored tensor into the module and refer to it."""
        name = value.name or ""
        path = self._names.path(f"constant.{name}" if NUMBERED.fullmatch(name) else name)
        attach(self._root, path, self._stored[value])
        self._initializer_names[path] = name
        return self._graph.create_node("get_attr", path)

    def _number(self, value: ir.Value) -> Any:
        """Python numbers: literal ones where the value is known, else an fx node that gives them."""
        if value in self._known:
            return self._known[value].tolist()
        if value not in self._numbers:
            self._numbers[value] = self._call(Op(numbers.to_numbers), (self._tensor(value),), {}, None)
        return self._numbers[value]

    def _call(
        self, op: Op, arguments: tuple[Any, ...], attributes: dict[str, Any], node: ir.Node | None
    ) -> fx.Node:
        if "device" in op.keywords and self._device is not None:
            attributes = {**attributes, "device": self._device}
        while arguments and arguments[-1] is None:
            arguments = arguments[:-1]
        name = None if node is None else re.sub(r"\W", "_", node.outputs[0].name or "")
        call = self._graph.create_node("call_function", op.function, arguments, attributes, name or None)
        if inspect.isfunction(op.function) and op.function.__module__.startswith("sparsecc."):
            # fx then keeps the call whole when the module is traced again.
            call.meta["is_wrapped"] = True
        return call


def _check_type(value: ir.Value, where: str) -> None:
    if isinstance(value.type, ir.OptionalType):
        raise UnsupportedOpError(f"{where} is optional, which PyTorch has no form of; make it a tensor")
    if value.dtype is not None:
        torch_dtype(value.dtype, where)


def _plain(attribute: ir.Attr) -> Any:
    """An attribute as Python numbers and texts."""
    value = attribute.value
    return list(value) if isinstance(value, tuple | list) else value


def _identifier(name: str, taken: set[str]) -> str:
    """The name as an identifier, unique among `taken`, to which it is added."""
    candidate = re.sub(r"\W", "_", name)
    if not candidate.isidentifier() or keyword.iskeyword(candidate) or candidate == "self":
        candidate = f"_{candidate}" if candidate[:1].isdigit() else f"{candidate}_"
    while candidate in taken:
        candidate += "_"
    taken.add(candidate)
    return candidate
