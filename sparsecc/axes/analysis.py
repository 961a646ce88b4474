"""One pass over the graph that says which axes of which tensors are the same, by the rule table.

What no rule covers is frozen with a reason; nothing is guessed. Inputs are frozen first, outputs last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.axes.algebra import unify
from sparsecc.axes.context import AxisState, NodeFacts, OpContext, RuleError, free_axes
from sparsecc.axes.dims import (
    AxisExpr,
    Dim,
    UnificationError,
    expand,
    fixed,
    freeze,
    indices_by_dim,
    size_of,
    terminals,
)
from sparsecc.axes.rules.registry import Zero, rule_for
from sparsecc.axes.trace import Trace, shaping_inputs, trace
from sparsecc.errors import Refusal, VerificationError


@dataclass
class Analysis:
    """Axes of a whole model.

    Attributes:
        model: what was analysed; it must not change while the analysis is used.
        trace: shapes and constants.
        axes: axes of each value that is data.
        sequences: axes of the elements of each sequence value.
        facts: what the rules said, per node.
        pseudo: constants read as data: sliced like weights, but no parameters.
        constant_nodes: nodes whose outputs are all constants.
        uncovered: nodes without a rule or whose rule did not apply, and why.
    """

    model: ir.Model
    trace: Trace
    axes: dict[ir.Value, tuple[AxisExpr, ...]]
    sequences: dict[ir.Value, list[tuple[AxisExpr, ...]]]
    facts: dict[ir.Node, NodeFacts]
    pseudo: set[ir.Value]
    constant_nodes: set[ir.Node] = field(default_factory=set[ir.Node])
    uncovered: dict[ir.Node, Refusal] = field(default_factory=dict[ir.Node, Refusal])

    @property
    def parameters(self) -> list[ir.Value]:
        """Initializers with axes, in the model's order."""
        return [
            value
            for value in self.model.graph.initializers.values()
            if value in self.axes and value not in self.pseudo and self.axes[value]
        ]

    def occurrences(self) -> dict[Dim, list[tuple[ir.Value, int]]]:
        """The (parameter, axis) pairs that each free dimension is part of."""
        found: dict[Dim, list[tuple[ir.Value, int]]] = {}
        for value in self.parameters:
            for number, axis in enumerate(self.axes[value]):
                for dim in terminals(axis):
                    found.setdefault(dim, []).append((value, number))
        return found


def analyse(model: ir.Model, inputs: Mapping[str, np.ndarray] | None = None) -> Analysis:
    """Find the axes of a model that are the same.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        inputs: arrays for all graph inputs where random ones would not run.

    Raises:
        UsageError: inputs that do not fit the model.
        VerificationError: ONNX Runtime cannot run the model.
    """
    seen = trace(model, inputs)
    state = AxisState(seen)
    result = Analysis(model, seen, state.axes, state.sequences, state.facts, state.pseudo)
    entry = Refusal("it is an axis of a graph input", "", "graph-input")
    for value in model.graph.inputs:
        state.axes[value] = tuple(fixed(size, entry) for size in seen.shapes[value])
    for value in model.graph.initializers.values():
        if value not in seen.constants and value not in state.axes:
            state.axes[value] = free_axes(seen.shapes[value], value.name or "")
    for node in model.graph:
        if all(value in seen.constants for value in node.outputs if value.name):
            result.constant_nodes.add(node)
        else:
            _visit(node, state, result)
    for value in model.graph.outputs:
        exit_ = Refusal(f"it is an axis of the graph output {value.name}", "", "graph-output")
        for axes in [state.axes.get(value, ()), *state.sequences.get(value, [])]:
            for axis in axes:
                freeze(axis, exit_)
    _settle(state)
    for axis, why in state.scaled:
        for root in expand(axis):
            if root.terms is not None and any(dim.frozen for dim in terminals((root,))):
                freeze((root,), why)
    return result


def _settle(state: AxisState) -> None:
    """See that balanced parts keep equally many indices, whatever goes.

    Dimensions that have more indices in one part than in another are frozen; where that would leave none, the
    parts are made the same.
    """
    changed = True
    while changed:
        changed = False
        for parts, where in state.balanced:
            counts = [indices_by_dim(part) for part in parts]
            known = {dim for count in counts for dim in count}
            uneven = {dim for dim in known if len({count[dim] for count in counts}) > 1}
            if not uneven:
                continue
            changed = True
            if uneven == known:
                for part in parts[1:]:
                    unify(parts[0], part, where)
            else:
                freeze(tuple(uneven), Refusal("it takes more from some convolution groups", where, "groups"))


def _visit(node: ir.Node, state: AxisState, result: Analysis) -> None:
    context = OpContext(node, state)
    row = rule_for(node.domain, node.op_type)
    if row is None:
        name = node.op_type if not node.domain else f"{node.domain}::{node.op_type}"
        why = Refusal(f"there is no rule for the op {name}", context.where, "no-rule")
        result.uncovered[node] = why
        context.freeze_all(why)
        return
    try:
        _check_shaped(node, state)
        row.axes(context)
        _check_computed(node, state)
    except (RuleError, UnificationError) as error:
        why = Refusal(f"this use of {node.op_type} has no rule: {error}", context.where, "no-rule")
        result.uncovered[node] = why
        context.facts = NodeFacts()
        context.freeze_all(why)
    context.freeze_unread()
    state.facts[node] = context.facts
    _check_sizes(node, state, context.where)


def _check_shaped(node: ir.Node, state: AxisState) -> None:
    """Refuse a node that regroups axes whose sizes depend on data: the traced ones are one case of many.

    Raises:
        RuleError: it does.
    """
    for value in shaping_inputs(node):
        if value is not None and value not in state.trace.constants and not value.is_initializer():
            raise RuleError(f"the shape of its output depends on data ({value.name})")
    if node.op_type in ("Reshape", "Flatten") and node.inputs[0] in state.trace.unshaped:
        raise RuleError("it regroups axes whose sizes depend on data")


def _check_computed(node: ir.Node, state: AxisState) -> None:
    """Refuse a node whose traced input was empty, if that is all its sizes show.

    ONNX Runtime leaves the shape of an empty input as it is where the op would change it.

    Raises:
        RuleError: it is so.
    """
    for value, _, shape in _disagreements(node, state):
        if value in state.trace.unshaped and 0 in shape:
            raise RuleError("the data chose nothing for it to compute on, so that its shape is not known")


def _check_sizes(node: ir.Node, state: AxisState, where: str) -> None:
    for value, sizes, shape in _disagreements(node, state):
        raise VerificationError(
            f"the axis rule of {where} gives {value.name} the sizes {sizes}, but it has {shape}; "
            f"please report this model"
        )


def _disagreements(
    node: ir.Node, state: AxisState
) -> Iterator[tuple[ir.Value, tuple[int, ...] | None, tuple[int, ...]]]:
    """Outputs whose axes have other sizes than the run showed: the value, these sizes, and those shown."""
    for value in node.outputs:
        shape = state.trace.shapes.get(value)
        if shape is None or value in state.trace.constants:
            continue
        axes = state.axes.get(value)
        sizes = None if axes is None else tuple(map(size_of, axes))
        if sizes != shape:
            yield value, sizes, shape


__all__ = ["Analysis", "Zero", "analyse"]
