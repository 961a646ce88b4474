"""The verifier: what every model in the project must satisfy, as a table of rules.

Run after capture and, on request, after every pass. A rule yields sentences; it never changes the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.encoding import fits, tagged_encoding
from sparsecc.ir.fused import FUSED_DOMAIN, fused_parts, is_fused
from sparsecc.ir.opset import OPSET
from sparsecc.ir.shapes import static_shape
from sparsecc.ir.weights import weight_uses

Findings = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: its name in `RULES`.
        where: the node or value.
        sentence: what is wrong there.
    """

    rule: str
    where: str
    sentence: str


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: a short stable word.
        demands: what must hold.
        check: yields (where, sentence) for what breaks it.
        reads_weights: looks inside fused functions, so it runs only on graphs that broke no rule before.
    """

    name: str
    demands: str
    check: Callable[[ir.Model], Findings]
    reads_weights: bool = False


def verify(model: ir.Model, static: bool = False, *, foreign_ops: bool = False) -> list[Violation]:
    """All violations, in the order of `RULES`.

    Args:
        model: not changed.
        static: symbolic dimensions are violations too.
        foreign_ops: ops of domains that nothing defines are none.
    """
    rules = (*RULES, STATIC_RULE) if static else RULES
    if foreign_ops:
        rules = tuple(rule for rule in rules if rule.check is not _domains)
    found: list[Violation] = []
    for rule in rules:
        if not (rule.reads_weights and found):
            found += [Violation(rule.name, where, text) for where, text in rule.check(model)]
    return found


def check(model: ir.Model, static: bool = False, after: str = "", *, foreign_ops: bool = False) -> None:
    """Raise on the first violation.

    Args:
        model: not changed.
        static: also demand static shapes.
        after: name of the pass that ran last, for the message.
        foreign_ops: accept ops of domains that nothing defines.

    Raises:
        VerificationError: one sentence naming the rule's finding and how many more there are.
    """
    found = verify(model, static, foreign_ops=foreign_ops)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        prefix = f"after {after}: " if after else ""
        raise VerificationError(f"{prefix}{found[0].sentence}{more}")


def node_text(node: ir.Node) -> str:
    """`Conv node conv1` for messages."""
    domain = f"{node.domain}." if node.domain else ""
    return f"{domain}{node.op_type} node {node.name or (node.outputs[0].name if node.outputs else '?')}"


def _single_assignment(model: ir.Model) -> Findings:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        seen: set[str] = set()
        values = [*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())]
        for value in [*values, *(output for node in graph for output in node.outputs)]:
            if not value.name:
                producer = value.producer()
                if producer is not None and not value.uses() and not value.is_graph_output():
                    continue
                yield "", f"{node_text(producer) if producer else 'the graph'} has a value without a name"
            elif value.name in seen:
                yield value.name, f"the name {value.name} is defined twice"
            seen.add(value.name or "")


def _order(model: ir.Model) -> Findings:
    for function in model.functions.values():
        yield from _order_in(function.graph, set())
    yield from _order_in(model.graph, set())


def _order_in(graph: ir.Graph, outer: set[ir.Value]) -> Findings:
    known = outer | set(graph.inputs) | set(graph.initializers.values())
    for node in graph:
        for value in node.inputs:
            if value is None or value in known:
                continue
            if value.producer() is None:
                yield (
                    node.name or "",
                    f"{node_text(node)} reads {value.name}, which is no input, initializer or node output",
                )
            else:
                yield (
                    node.name or "",
                    f"{node_text(node)} reads {value.name} before it is computed or in a cycle",
                )
        for attr in node.attributes.values():
            inner = [attr.as_graph()] if attr.type == ir.AttributeType.GRAPH else []
            inner += list(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else []
            for subgraph in inner:
                yield from _order_in(subgraph, known)
        known.update(node.outputs)
    for value in graph.outputs:
        if value not in known:
            yield value.name or "", f"output {value.name} is not computed by any node"


def _opset(model: ir.Model) -> Findings:
    version = model.opset_imports.get("")
    if version is not None and version != OPSET:
        yield "", f"the model is at opset {version} instead of {OPSET}"
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            yield node.name or "", f"{node_text(node)} is no op of ONNX opset {OPSET}"


def _domains(model: ir.Model) -> Findings:
    for node in model.graph.all_nodes():
        known = node.domain in ("", "ai.onnx", FUSED_DOMAIN) or node.op_identifier() in model.functions
        if not known:
            yield node.name or "", f"{node_text(node)} is of an unknown domain"


def _zero_sizes(model: ir.Model) -> Findings:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in values:
        if value.shape is not None and any(dim == 0 for dim in value.shape) and not _is_list(value):
            yield value.name or "", f"{value.name} has a dimension of size zero: {list(value.shape)}"
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.size == 0 and len(tensor.shape) > 1:
            yield (
                value.name or "",
                f"initializer {value.name} has a dimension of size zero: {list(tensor.shape)}",
            )


def _is_list(value: ir.Value) -> bool:
    """Empty one-dimensional integer values are ordinary: the shape of a scalar, an empty list of axes."""
    return value.shape is not None and len(value.shape) == 1 and value.dtype == ir.DataType.INT64


def _finite(model: ir.Model) -> Findings:
    weights = {use.value for use in weight_uses(model)}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point() or tensor.size == 0:
            continue
        array = tensor.numpy()
        if np.isfinite(array).all():
            continue
        if np.isnan(array).any():
            yield value.name or "", f"initializer {value.name} holds NaN"
        elif value in weights:
            yield value.name or "", f"weight {value.name} holds infinity"


def _data(model: ir.Model) -> Findings:
    for value in model.graph.initializers.values():
        if value.const_value is None:
            yield value.name or "", f"initializer {value.name} has no data"
        elif value.shape is not None and list(value.shape) != list(value.const_value.shape):
            yield (
                value.name or "",
                f"initializer {value.name} is declared {list(value.shape)} but holds another shape",
            )


def _output_types(model: ir.Model) -> Findings:
    for value in model.graph.outputs:
        if value.type is None:
            yield value.name or "", f"output {value.name} has no type"


def _encodings(model: ir.Model) -> Findings:
    for use in weight_uses(model):
        try:
            tag = tagged_encoding(use.value)
        except UsageError as error:
            yield use.value.name or "", f"initializer {use.value.name} has a wrong encoding tag: {error}"
            continue
        tensor = use.value.const_value
        if tag is not None and tensor is not None and not fits(tensor.numpy(), tag, use.axis):
            yield (
                use.value.name or "",
                f"initializer {use.value.name} is tagged {tag} but its zeros disagree",
            )


def _fused(model: ir.Model) -> Findings:
    for node in model.graph.all_nodes():
        if is_fused(node):
            try:
                fused_parts(model, node)
            except VerificationError as error:
                yield node.name or "", str(error)


def _static(model: ir.Model) -> Findings:
    for value in [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]:
        if isinstance(value.type, ir.TensorType) and static_shape(value) is None:
            yield value.name or "", f"{value.name} has a shape that is not static"


RULES: tuple[Rule, ...] = (
    Rule("single-assignment", "every value has one name and one definition", _single_assignment),
    Rule("order", "nodes read only what is defined before them, so there are no cycles", _order),
    Rule("opset", "one pinned opset, ops of it only", _opset),
    Rule("domains", "ops of other domains are defined by the model", _domains),
    Rule("data", "every initializer has data of its declared shape", _data),
    Rule("zero-size", "no dimension is of size zero", _zero_sizes),
    Rule("output-types", "every output declares its type", _output_types),
    Rule("fused", "a fused call fits its function", _fused),
    Rule("finite", "no NaN in any initializer, no infinity in a weight", _finite, reads_weights=True),
    Rule("encoding", "an encoding tag agrees with the zeros", _encodings, reads_weights=True),
)
STATIC_RULE = Rule("static", "every shape is static", _static)
