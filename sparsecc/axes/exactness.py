"""Is deleting an index the same as zeroing its parameters? Follows which slices may be non-zero all the same.

Parameters are clean: at a removed index they are zero. f(0) != 0, or a bias along other axes, makes a
value dirty along a dimension; a sum along which no operand is clean tells zeroed from deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.axes.analysis import Analysis
from sparsecc.axes.context import NodeFacts
from sparsecc.axes.dims import AxisExpr, Dim, terminals
from sparsecc.axes.rules.registry import Zero, rule_for

Marks = set[tuple[int, Dim]]
"""Pairs (axis, free dimension) along which a value may be non-zero at removed indices."""


@dataclass
class Exactness:
    """Where zeroing and deleting differ.

    Attributes:
        inexact: dimension -> nodes that sum over it although no operand is zero at removed indices.
        norm_dirty: dimension -> normalisations that see non-zero entries at removed indices; deleting is
            right there, and a check by zeroing must leave the entries out of the statistics.
    """

    inexact: dict[Dim, set[str]] = field(default_factory=dict[Dim, set[str]])
    norm_dirty: dict[Dim, set[str]] = field(default_factory=dict[Dim, set[str]])


def check_exactness(analysis: Analysis) -> Exactness:
    """Follow the marks through the graph."""
    return _Follower(analysis).run()


class _Follower:
    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._dims: dict[ir.Value, list[set[Dim]]] = {}
        self._marks: dict[ir.Value, Marks] = {}
        self._result = Exactness()
        self._parts: dict[AxisExpr, set[Dim]] = {}

    def run(self) -> Exactness:
        """Visit all nodes in order."""
        for node in self._analysis.model.graph:
            if node in self._analysis.constant_nodes or node not in self._analysis.facts:
                continue
            facts = self._analysis.facts[node]
            row = rule_for(node.domain, node.op_type)
            zero = facts.zero or (row.zero if row else Zero.LOST)
            inputs = [
                value
                for number, value in enumerate(node.inputs)
                if value is not None and (number in facts.data or value in self._analysis.sequences)
            ]
            self._visit(node, facts, zero, inputs)
        return self._result

    # views of values

    def _dims_of(self, value: ir.Value) -> list[set[Dim]]:
        """Free dimensions that may go, per axis; a sequence has those of all its elements, axis by axis."""
        if value not in self._dims:
            if value in self._analysis.sequences:
                axes = [axis for item in self._analysis.sequences[value] for axis in item]
            else:
                axes = list(self._analysis.axes.get(value, ()))
            self._dims[value] = [self._free(axis) for axis in axes]
        return self._dims[value]

    def _free(self, axis: AxisExpr) -> set[Dim]:
        if axis not in self._parts:
            self._parts[axis] = {dim for dim in terminals(axis) if not dim.frozen}
        return self._parts[axis]

    def _marks_of(self, value: ir.Value) -> Marks:
        if value not in self._marks:
            marks: Marks = set()
            constant = self._analysis.trace.constants.get(value)
            if value in self._analysis.pseudo and (constant is None or np.any(constant)):
                marks = _all(self._dims_of(value))
            self._marks[value] = marks
        return self._marks[value]

    def _aligned(self, value: ir.Value, rank: int) -> tuple[dict[int, set[Dim]], Marks]:
        """Dimensions and marks of an operand in the axes of a result it broadcasts to."""
        dims = self._dims_of(value)
        offset = rank - len(dims)
        marks = {(axis + offset, dim) for axis, dim in self._marks_of(value)}
        return {axis + offset: found for axis, found in enumerate(dims)}, marks

    def _is_zero(self, value: ir.Value) -> bool:
        array = self._analysis.trace.constants.get(value)
        return array is not None and array.size == 1 and not np.any(array)

    # nodes

    def _visit(self, node: ir.Node, facts: NodeFacts, zero: Zero, inputs: list[ir.Value]) -> None:
        outputs = [value for value in node.outputs if value.name]
        dims = self._dims_of(outputs[0])
        full = _all(dims)
        marks = self._result_marks(node, facts, zero, inputs, dims, full)
        self._marks[outputs[0]] = marks
        for value in outputs[1:]:
            if zero is Zero.LAYOUT:
                found = self._layout(inputs, _all(self._dims_of(value)))
            else:
                dirty = _dims(marks)
                found = {(axis, dim) for axis, dim in _all(self._dims_of(value)) if dim in dirty}
            self._marks[value] = found

    def _result_marks(
        self,
        node: ir.Node,
        facts: NodeFacts,
        zero: Zero,
        inputs: list[ir.Value],
        dims: list[set[Dim]],
        full: Marks,
    ) -> Marks:
        match zero:
            case Zero.RECURRENT:
                # Hidden units are the last axis; a sequence of the batch that is removed still meets biases.
                return {(axis, dim) for axis, dim in full if axis != len(dims) - 1}
            case Zero.CONTRACTION:
                return self._contraction(node, facts, dims, full)
            case Zero.NORM:
                return self._norm(node, facts, full)
            case Zero.STATISTIC | Zero.REDUCTION:
                return self._reduction(node, facts, zero, full)
            case Zero.LAYOUT:
                return self._layout(inputs, full)
            case Zero.LOST:
                return full
            case _:
                return self._elementwise(node, zero, inputs, dims, full)

    def _elementwise(
        self, node: ir.Node, zero: Zero, inputs: list[ir.Value], dims: list[set[Dim]], full: Marks
    ) -> Marks:
        if not full:
            return set()
        if zero is Zero.SUM:
            operands = node.inputs[1:] if node.op_type == "Where" else node.inputs
            present = [value for value in operands if value is not None and not self._is_zero(value)]
            views = [self._aligned(value, len(dims)) for value in present]
            return {mark for mark in full if not all(_clean(mark, own, marks) for own, marks in views)}
        if zero is Zero.PRODUCT:
            views = [self._aligned(value, len(dims)) for value in inputs]
            return {mark for mark in full if not any(_clean(mark, own, marks) for own, marks in views)}
        # KEEPS and QUOTIENT follow the first operand.
        own, marks = self._aligned(inputs[0], len(dims)) if node.inputs[0] is inputs[0] else ({}, set())
        return {mark for mark in full if not _clean(mark, own, marks)}

    def _layout(self, inputs: list[ir.Value], full: Marks) -> Marks:
        dirty: set[Dim] = set()
        known: set[Dim] = set()
        for value in inputs:
            dirty |= _dims(self._marks_of(value))
            known |= _dims(_all(self._dims_of(value)))
        return {(axis, dim) for axis, dim in full if dim in dirty or dim not in known}

    def _contraction(self, node: ir.Node, facts: NodeFacts, dims: list[set[Dim]], full: Marks) -> Marks:
        numbers = sorted({number for number, _ in facts.contracted} | {0, 1})
        if node.op_type == "Einsum":
            numbers = list(range(len(node.inputs)))
        operands = [value for number in numbers if (value := _at(node, number)) is not None]
        own = [_dims(_all(self._dims_of(value))) for value in operands]
        dirty = [_dims(self._marks_of(value)) for value in operands]
        for number, axis in facts.contracted:
            value = _at(node, number)
            if value is None:
                continue
            for dim in self._dims_of(value)[axis]:
                if not any(dim in has and dim not in bad for has, bad in zip(own, dirty, strict=True)):
                    self._result.inexact.setdefault(dim, set()).add(node.outputs[0].name or "")
        marks: Marks = set()
        for axis, dim in full:
            holding = [bad for has, bad in zip(own, dirty, strict=True) if dim in has]
            clean = [bad for bad in holding if dim not in bad]
            on_several_axes = sum(dim in found for found in dims) > 1
            if not clean or (on_several_axes and len(clean) < len(holding)):
                marks.add((axis, dim))
        bias = _at(node, 2) if node.op_type != "Einsum" else None
        if bias is not None:
            # A bias along a dimension is zero where the dimension is removed, one along others is not.
            with_bias = _dims(_all(self._dims_of(bias))) - _dims(self._marks_of(bias))
            marks |= {(axis, dim) for axis, dim in full if dim not in with_bias}
        return marks

    def _norm(self, node: ir.Node, facts: NodeFacts, full: Marks) -> Marks:
        data = _at(node, 0)
        assert data is not None
        seen = self._marks_of(data)
        for axis, dim in seen:
            if axis in facts.statistics:
                self._result.norm_dirty.setdefault(dim, set()).add(node.outputs[0].name or "")
        last = [value for value in node.inputs[1:] if value is not None]
        scaled: set[Dim] = set()
        if last:
            # The output is 0 where all of scale and shift are: without a shift, where the scale or input is.
            scaled = set.intersection(
                *(_dims(_all(self._dims_of(value))) - _dims(self._marks_of(value)) for value in _affine(node))
            )
        shifted = len(_affine(node)) > 1
        return {
            (axis, dim)
            for axis, dim in full
            if dim not in scaled and (shifted or (axis, dim) in seen or axis in _centred(node, facts))
        }

    def _reduction(self, node: ir.Node, facts: NodeFacts, zero: Zero, full: Marks) -> Marks:
        data = _at(node, 0)
        assert data is not None
        seen = self._marks_of(data)
        into = self._result.norm_dirty if zero is Zero.STATISTIC else self._result.inexact
        for axis, dim in seen:
            if axis in facts.reduced:
                into.setdefault(dim, set()).add(node.outputs[0].name or "")
        rest = _dims({mark for mark in seen if mark[0] not in facts.reduced})
        return {(axis, dim) for axis, dim in full if dim in rest}


def _affine(node: ir.Node) -> list[ir.Value]:
    """Scale and shift of a normalisation; the running mean of a batch norm is a shift too."""
    numbers = (1, 2, 3) if node.op_type == "BatchNormalization" else (1, 2)
    return [value for number in numbers if (value := _at(node, number)) is not None]


def _centred(node: ir.Node, facts: NodeFacts) -> tuple[int, ...]:
    """Axes along which a zero becomes -mean / deviation; RMS and Lp norms keep zeros at zero."""
    if node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization", "LpNormalization"):
        return ()
    return facts.statistics


def _at(node: ir.Node, number: int) -> ir.Value | None:
    return node.inputs[number] if number < len(node.inputs) else None


def _all(dims: Iterable[set[Dim]]) -> Marks:
    return {(axis, dim) for axis, found in enumerate(dims) for dim in found}


def _dims(marks: Marks) -> set[Dim]:
    return {dim for _, dim in marks}


def _clean(mark: tuple[int, Dim], own: dict[int, set[Dim]], marks: Marks) -> bool:
    return mark[1] in own.get(mark[0], ()) and mark not in marks
