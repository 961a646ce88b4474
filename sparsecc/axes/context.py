"""What a rule sees of a node, and how it says what the node does to axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.axes import algebra
from sparsecc.axes.dims import AxisExpr, Dim, UnificationError, expand, fixed, freeze, mark_norm, size_of
from sparsecc.axes.edits import Edit
from sparsecc.axes.rules.registry import Zero
from sparsecc.axes.trace import Trace
from sparsecc.errors import Refusal

Axes = tuple[AxisExpr, ...]


class RuleError(Exception):
    """A rule does not cover this use of its op; the sentence becomes the reason for freezing."""


@dataclass
class NodeFacts:
    """What a rule said about one node beyond its axes.

    Attributes:
        edits: changes when axes shrink.
        contracted: (input, axis) pairs that are summed away, one per operand.
        statistics: axes of input 0 over which statistics run.
        reduced: axes of input 0 that are summed away.
        work: factors of the number of multiply-adds, axes and plain numbers.
        data: inputs that are read as data, not as shapes, indices or the like.
        zero: what this node makes of zeroed slices where that is not what its op does in general.
    """

    edits: list[Edit] = field(default_factory=list[Edit])
    contracted: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    statistics: tuple[int, ...] = ()
    reduced: tuple[int, ...] = ()
    work: tuple[AxisExpr, ...] = ()
    data: set[int] = field(default_factory=set[int])
    zero: Zero | None = None


@dataclass
class AxisState:
    """Axes of all values seen so far.

    Attributes:
        trace: shapes and constants.
        axes: of each tensor value.
        sequences: of the elements of each sequence value.
        facts: what the rules said, per node.
        pseudo: constants that are read as data: sliced like weights, but no parameters.
        scaled: axes whose sizes are scaled at run time; sums with frozen parts among them must freeze.
        balanced: equal parts of axes, and who says so; each must keep as many indices as the others.
    """

    trace: Trace
    axes: dict[ir.Value, Axes] = field(default_factory=dict[ir.Value, Axes])
    sequences: dict[ir.Value, list[Axes]] = field(default_factory=dict[ir.Value, "list[Axes]"])
    facts: dict[ir.Node, NodeFacts] = field(default_factory=dict[ir.Node, NodeFacts])
    pseudo: set[ir.Value] = field(default_factory=set[ir.Value])
    scaled: list[tuple[AxisExpr, Refusal]] = field(default_factory=list[tuple[AxisExpr, Refusal]])
    balanced: list[tuple[list[AxisExpr], str]] = field(default_factory=list[tuple[list[AxisExpr], str]])

    def axes_of(self, value: ir.Value) -> Axes:
        """Axes of a value; a constant gets free dimensions when it is first read as data."""
        if value not in self.axes:
            if value not in self.trace.constants:
                raise RuleError(f"{value.name} was not computed")
            shape = self.trace.shapes[value]
            if value in self.trace.dynamic:
                why = Refusal("it is computed from a symbolic dimension", value.name or "", "symbolic")
                self.axes[value] = tuple(fixed(size, why) for size in shape)
            else:
                self.axes[value] = free_axes(shape, value.name or "constant")
            self.pseudo.add(value)
        return self.axes[value]


def free_axes(shape: Sequence[int], name: str) -> Axes:
    """A free dimension of its own for every axis that is not of size 1."""
    return tuple((Dim(size, f"{name}.{axis}"),) if size != 1 else () for axis, size in enumerate(shape))


class OpContext:
    """One node in front of its rule."""

    def __init__(self, node: ir.Node, state: AxisState) -> None:
        self.node = node
        self.state = state
        self.facts = NodeFacts()
        self._ignored: set[int] = set()
        self.where = f"{node.op_type} {node.name or node.outputs[0].name}"

    # inputs

    def has(self, number: int) -> bool:
        """Whether an optional input is given."""
        return number < len(self.node.inputs) and self.node.inputs[number] is not None

    def value(self, number: int) -> ir.Value:
        """An input that must be there."""
        value = self.node.inputs[number] if number < len(self.node.inputs) else None
        if value is None:
            raise RuleError(f"input {number} is missing")
        return value

    def axes(self, number: int) -> Axes:
        """Axes of an input that is read as data."""
        self.facts.data.add(number)
        return self.state.axes_of(self.value(number))

    def shape(self, number: int) -> tuple[int, ...]:
        """Sizes of an input."""
        return self.state.trace.shapes[self.value(number)]

    def elements(self, number: int) -> list[Axes]:
        """Axes of the elements of an input that is a sequence."""
        return self.state.sequences[self.value(number)]

    def is_constant(self, number: int) -> bool:
        """Whether an input is known before any data is, whatever the symbolic dimensions are."""
        return self.has(number) and (
            self.value(number) in self.state.trace.constants and not self.is_dynamic(number)
        )

    def is_dynamic(self, number: int) -> bool:
        """Whether an input depends on symbolic dimensions and on nothing else."""
        return self.has(number) and self.value(number) in self.state.trace.dynamic

    def varying(self, number: int) -> np.ndarray:
        """Which entries of an input depend on symbolic dimensions; none of one that is no constant."""
        found = self.state.trace.dynamic.get(self.value(number))
        return np.zeros(1, bool) if found is None else found

    def known(self, number: int) -> np.ndarray | None:
        """The array of an input whose numbers never change, be it a weight, or None."""
        if not self.has(number) or self.is_dynamic(number):
            return None
        value = self.value(number)
        stored = value.const_value is not None and not value.is_graph_input()
        return self.constant(number) if stored or value in self.state.trace.constants else None

    def constant(self, number: int) -> np.ndarray:
        """The array of an input that must be constant."""
        value = self.value(number)
        if value in self.state.trace.dynamic:
            raise RuleError(f"input {number} depends on a symbolic dimension")
        found = self.state.trace.constants.get(value)
        if found is None and value.const_value is not None and not value.is_graph_input():
            found = value.const_value.numpy()
        if found is None:
            raise RuleError(f"input {number} is not constant")
        return found

    def ints(self, number: int, attribute: str | None = None) -> list[int] | None:
        """A constant integer input, or the attribute that older opsets had instead, or None."""
        if self.has(number):
            return [int(item) for item in self.constant(number).reshape(-1)]
        if attribute is not None and attribute in self.node.attributes:
            return list(self.node.attributes[attribute].as_ints())
        return None

    def ignore(self, number: int) -> None:
        """Neither the sizes nor the entries of an input matter, so its axes may shrink."""
        self._ignored.add(number)

    def freeze_unread(self) -> None:
        """Inputs that the rule has not read as data hold sizes, indices and the like: they stay whole."""
        for number, value in enumerate(self.node.inputs):
            if value is None or number in self.facts.data or number in self._ignored:
                continue
            if value not in self.state.trace.constants:
                for axis in self.state.axes.get(value, ()):
                    self.freeze(axis, f"{self.node.op_type} does not read it as data", "no-data")

    # attributes

    def int(self, name: str, default: int) -> int:
        """An integer attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_int()

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_string()

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.as_float()

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, empty where it is not given."""
        attribute = self.node.attributes.get(name)
        return () if attribute is None else tuple(attribute.as_strings())

    def int_list(self, name: str) -> tuple[int, ...] | None:
        """A list attribute."""
        attribute = self.node.attributes.get(name)
        return None if attribute is None else tuple(attribute.as_ints())

    # outputs

    @property
    def outputs(self) -> range:
        """Numbers of the outputs."""
        return range(len(self.node.outputs))

    def out_shape(self, number: int = 0) -> tuple[int, ...]:
        """Sizes of an output."""
        return self.state.trace.shapes[self.node.outputs[number]]

    def set(self, number: int, axes: Sequence[AxisExpr]) -> None:
        """Axes of an output, which is skipped if the node does not have it."""
        if not self.gives(number):
            return
        if self.node.outputs[number] in self.state.trace.shapes:
            self.state.axes[self.node.outputs[number]] = tuple(axes)
            return
        for axis in axes:
            self.freeze(axis, "it reaches a value whose shape could not be found", "no-shape")

    def gives(self, number: int) -> bool:
        """Whether the node has an optional output."""
        return number < len(self.node.outputs) and bool(self.node.outputs[number].name)

    def is_read(self, number: int) -> bool:
        """Whether anything reads an optional output."""
        if not self.gives(number):
            return False
        value = self.node.outputs[number]
        return value.is_graph_output() or bool(value.uses())

    def set_sequence(self, number: int, elements: list[Axes]) -> None:
        """Axes of the elements of an output that is a sequence."""
        self.state.sequences[self.node.outputs[number]] = elements

    # statements

    def unify(self, left: AxisExpr, right: AxisExpr) -> None:
        """Two axes are one."""
        algebra.unify(left, right, self.where)

    def freeze(self, axis: AxisExpr, reason: str, code: str) -> None:
        """No index of an axis may go."""
        freeze(axis, Refusal(reason, self.where, code))

    def keep_whole_sums(self, axis: AxisExpr, reason: str, code: str) -> None:
        """The axis shrinks by a factor only: at the end, sums in it that are partly frozen freeze."""
        self.state.scaled.append((axis, Refusal(reason, self.where, code)))

    def balance(self, axis: AxisExpr, count: int) -> None:
        """The axis has `count` equal parts that keep equally many indices, each its own.

        At the end, parts of which other nodes do not tie as many indices each are made the same.
        """
        size = size_of(axis) // count
        pieces = algebra.cut(axis, [size * number for number in range(1, count)])
        self.state.balanced.append(([algebra.join(piece) for piece in pieces], self.where))

    def fixed(self, size: int, reason: str, code: str) -> AxisExpr:
        """A new frozen axis."""
        return fixed(size, Refusal(reason, self.where, code))

    def slot(self, reason: str, code: str) -> AxisExpr:
        """A new frozen axis of size 1 that takes a place in a sum."""
        return (Dim(1, "slot", Refusal(reason, self.where, code)),)

    def reshape(self, axes: Sequence[AxisExpr], shape: Sequence[int]) -> list[AxisExpr]:
        """Axes regrouped row-major."""
        return algebra.reshape(axes, shape, self.where)

    def concatenate(self, parts: Sequence[AxisExpr]) -> AxisExpr:
        """The ordered sum of axes."""
        return algebra.join(parts)

    def select(self, axis: AxisExpr, indices: np.ndarray) -> AxisExpr:
        """The axis of x[indices]."""
        return algebra.select(axis, indices, self.where)

    def statistics(self, axes: Sequence[int]) -> None:
        """Statistics run over these axes of input 0."""
        self.facts.statistics = tuple(axes)
        for axis in axes:
            mark_norm(self.axes(0)[axis], self.node.outputs[0].name or self.where)

    def contract(self, *pairs: tuple[int, int]) -> None:
        """These (input, axis) pairs are summed away together."""
        self.facts.contracted.extend(pairs)

    def work(self, *factors: AxisExpr | int) -> None:
        """The node does as many multiply-adds as the product of axes and numbers."""
        found: list[AxisExpr] = []
        for factor in factors:
            if isinstance(factor, int):
                found.append(self.fixed(factor, "a plain number", "number"))
            else:
                found.append(factor)
        self.facts.work = tuple(found)

    def edit(self, edit: Edit) -> None:
        """The node must be changed so when axes shrink."""
        self.facts.edits.append(edit)

    def broadcast(self, operands: Sequence[Sequence[AxisExpr]], shape: Sequence[int]) -> list[AxisExpr]:
        """Axes of an elementwise result by ONNX's (numpy's) broadcasting.

        Args:
            operands: axes of each, aligned at the right.
            shape: of the result.
        """
        result: list[AxisExpr] = []
        for number, size in enumerate(shape):
            distance = len(shape) - number
            current: AxisExpr | None = None
            for operand in operands:
                if len(operand) < distance:
                    continue
                axis = operand[len(operand) - distance]
                if size_of(axis) == 1 and size != 1:
                    self.freeze(axis, "a slice of one index is broadcast", "unit-broadcast")
                elif current is None:
                    current = axis
                else:
                    self.unify(current, axis)
            if current is None:
                current = (Dim(size, "repeat"),) if size != 1 else ()
            result.append(expand(current))
        return result

    def broadcast_inputs(self, numbers: Sequence[int] | None = None) -> list[AxisExpr]:
        """Axes of an elementwise result of some inputs, or of all."""
        chosen = range(len(self.node.inputs)) if numbers is None else numbers
        return self.broadcast([self.axes(number) for number in chosen if self.has(number)], self.out_shape())

    def freeze_all(self, why: Refusal) -> None:
        """Keep everything that the node touches, what the bodies of If, Loop and Scan read included."""
        for value in (*self.node.inputs, *_read_by_bodies(self.node)):
            if value is None:
                continue
            if value in self.state.sequences:
                for element in self.state.sequences[value]:
                    for axis in element:
                        freeze(axis, why)
            elif value in self.state.axes or value in self.state.trace.constants:
                for axis in self.state.axes_of(value):
                    freeze(axis, why)
        for value in self.node.outputs:
            shape = self.state.trace.shapes.get(value)
            if value in self.state.trace.sequences:
                self.state.sequences[value] = [
                    tuple(fixed(size, why) for size in item) for item in self.state.trace.sequences[value]
                ]
            elif shape is not None:
                self.state.axes[value] = tuple(fixed(size, why) for size in shape)


def _read_by_bodies(node: ir.Node) -> Iterator[ir.Value | None]:
    """What the graphs in a node's attributes read or hand out, values of their own included."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = list(attribute.as_graphs())
        else:
            continue
        for body in bodies:
            for inner in body.all_nodes():
                yield from inner.inputs
            yield from body.outputs


__all__ = ["Axes", "AxisState", "NodeFacts", "OpContext", "RuleError", "UnificationError", "free_axes"]
