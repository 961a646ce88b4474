"""Deletes indices: slices initializers, rewrites shapes, splits, indices and attributes, drops what is dead.

The result is an ordinary smaller model. Constants that were computed from the shapes of pruned tensors, such
as a scale 1 / sqrt(head_dim), keep the value they had.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from sparsecc.axes.analysis import Analysis
from sparsecc.axes.dims import Dim, keep_mask
from sparsecc.axes.edits import (
    Edit,
    PinAttribute,
    PinInput,
    Select,
    SetAttribute,
    SetIndices,
    SetRepeats,
    SetRows,
    SetSequenceSplit,
    SetShape,
    SetSplit,
)
from sparsecc.errors import VerificationError
from sparsecc.ir.edit import add_initializer, fresh_name, replace_constant, used_names

Kept = dict[str, dict[str, list[int]]]
"""Name -> axis as text -> indices that stay, in order; axes that keep all are absent."""


class Rewriter:
    """Deletes indices from a copy of an analysed model.

    Args:
        analysis: of the model; neither is changed.
        kept: boolean mask [dim.size] per free dimension; one that is absent keeps all.
    """

    def __init__(self, analysis: Analysis, kept: Mapping[Dim, np.ndarray]) -> None:
        self._analysis = analysis
        self._kept = kept
        self._masks: dict[ir.Value, list[np.ndarray]] = {}
        self._model = analysis.model.clone()
        self._graph = self._model.graph
        self._names = used_names(self._model)
        self._values = dict(zip(_values(analysis.model), _values(self._model), strict=True))
        self._sliced: dict[ir.Value, ir.Value] = {}

    def run(self) -> ir.Model:
        """The smaller model.

        Raises:
            VerificationError: an axis would keep no index.
        """
        self._check_none_empty()
        originals = list(self._analysis.model.graph)
        copies = list(self._graph)
        for original, copy in zip(originals, copies, strict=True):
            if original in self._analysis.constant_nodes:
                self._settle_constants(original)
            else:
                self._rewrite(original, copy)
        for value in self._analysis.parameters:
            self._slice(value)
        self._set_shapes()
        common_passes.RemoveUnusedNodesPass()(self._model)
        return self._model

    def kept(self) -> Kept:
        """What stays of each parameter that shrinks."""
        return {
            value.name or "": found
            for value in self._analysis.parameters
            if (found := self._indices(self._mask(value)))
        }

    def normalizations(self) -> Kept:
        """First output of each node whose statistics see fewer entries -> what stays of its input's axes."""
        result: Kept = {}
        for node, facts in self._analysis.facts.items():
            if facts.statistics:
                masks = self._mask(node.inputs[0])
                chosen = {axis: masks[axis] for axis in facts.statistics if not masks[axis].all()}
                if chosen:
                    result[node.outputs[0].name or ""] = {
                        str(axis): np.flatnonzero(mask).tolist() for axis, mask in chosen.items()
                    }
        return result

    # masks

    def _mask(self, value: ir.Value | None) -> list[np.ndarray]:
        """Masks of the axes of a value; none for a value without axes."""
        if value is None:
            return []
        if value not in self._masks:
            axes = self._analysis.axes.get(value, ())
            self._masks[value] = [keep_mask(axis, self._kept) for axis in axes]
        return self._masks[value]

    def _changed(self, value: ir.Value | None) -> bool:
        if value in self._analysis.sequences:
            elements = self._analysis.sequences[value]
            return any(not keep_mask(axis, self._kept).all() for axes in elements for axis in axes)
        return any(not mask.all() for mask in self._mask(value))

    @staticmethod
    def _indices(masks: list[np.ndarray]) -> dict[str, list[int]]:
        return {str(axis): np.flatnonzero(mask).tolist() for axis, mask in enumerate(masks) if not mask.all()}

    def _sizes(self, value: ir.Value) -> list[int]:
        return [int(mask.sum()) for mask in self._mask(value)]

    def _check_none_empty(self) -> None:
        for value in self._analysis.axes:
            for axis, mask in enumerate(self._mask(value)):
                if mask.size and not mask.any():
                    raise VerificationError(
                        f"axis {axis} of {value.name} would keep none of its {mask.size} indices; "
                        f"keep at least one"
                    )

    # constants

    def _settle_constants(self, node: ir.Node) -> None:
        """Constants that followed a shape which changes now become initializers with the value they had."""
        trace = self._analysis.trace
        for value in node.outputs:
            sources = trace.shape_sources.get(value, frozenset())
            if value in trace.dynamic or not any(self._changed(source) for source in sources):
                continue
            copy = self._values[value]
            if value.is_graph_output() or not copy.uses():
                continue
            array = trace.constants[value]
            name = value.name or ""
            copy.name = fresh_name(self._names, f"{name}.computed")  # dead, or read by shape arithmetic only
            copy.replace_all_uses_with(add_initializer(self._graph, name, array))

    def _slice(self, value: ir.Value) -> None:
        masks = self._mask(value)
        if all(mask.all() for mask in masks):
            return
        copy = self._values[value]
        assert copy.const_value is not None
        replace_constant(copy, taken(copy.const_value.numpy(), masks))

    def _slice_constant(self, original: ir.Node, copy: ir.Node) -> None:
        """Constants read as data get sliced copies, for they may be read as shapes elsewhere."""
        for number in self._analysis.facts[original].data:
            value = original.inputs[number]
            if value is None or value not in self._analysis.pseudo or not self._changed(value):
                continue
            if value not in self._sliced:
                array = taken(self._analysis.trace.constants[value], self._mask(value))
                name = fresh_name(self._names, f"{value.name}.kept")
                self._sliced[value] = add_initializer(self._graph, name, array)
            copy.replace_input_with(number, self._sliced[value])

    def _constant(self, name: str, array: np.ndarray | list[int]) -> ir.Value:
        name = fresh_name(self._names, name)
        return add_initializer(self._graph, name, np.asarray(array, None if len(array) else np.int64))

    # nodes

    def _rewrite(self, original: ir.Node, copy: ir.Node) -> None:
        facts = self._analysis.facts.get(original)
        if facts is None:
            return
        self._slice_constant(original, copy)
        touched = [*original.inputs, *original.outputs]
        if not any(self._changed(value) for value in touched):
            return
        for edit in facts.edits:
            self._apply(edit, original, copy)

    def _apply(self, edit: Edit, original: ir.Node, copy: ir.Node) -> None:
        base = original.outputs[0].name or original.op_type
        match edit:
            case SetAttribute(name, axis):
                count = int(keep_mask(axis, self._kept).sum())
                copy.attributes[name] = ir.AttrInt64(name, count)
            case PinAttribute(name, number):
                copy.attributes[name] = ir.AttrFloat32(name, number)
            case PinInput(number, numbers):
                _set_input(copy, number, self._constant(f"{base}.pinned", list(numbers)))
            case SetShape(number):
                self._set_shape(number, original, copy)
            case SetSplit(number, axis):
                copy.attributes.pop("num_outputs", None)
                sizes = [self._sizes(value)[axis] for value in original.outputs]
                _set_input(copy, number, self._constant(f"{base}.sizes", sizes))
            case SetSequenceSplit(number, axes):
                if number < len(original.inputs) and original.inputs[number] is not None:
                    sizes = [int(keep_mask(axis, self._kept).sum()) for axis in axes]
                    _set_input(copy, number, self._constant(f"{base}.sizes", sizes))
            case SetRepeats(number):
                after, before = self._sizes(original.outputs[0]), self._sizes(_input(original, 0))
                repeats = [a // b if b else 1 for a, b in zip(after, before, strict=True)]
                _set_input(copy, number, self._constant(f"{base}.repeats", repeats))
            case SetRows(number, rows):
                mask = self._mask(original.inputs[0])[0]
                array = _renumbered(rows, mask)[:, None]
                _set_input(copy, number, self._constant(f"{base}.rows", array))
            case SetIndices(number, axis, indices):
                array = _renumbered(indices.reshape(-1), keep_mask(axis, self._kept))
                _set_input(copy, number, self._constant(f"{base}.indices", array))
            case Select(taken_axes):
                self._select(taken_axes, original, copy)

    def _set_shape(self, number: int, original: ir.Node, copy: ir.Node) -> None:
        """Patch the entries of a shape whose axes shrink; -1, 0 and 1 mean the same as before."""
        output = original.outputs[0]
        masks, sizes = self._mask(output), self._sizes(output)
        source = _input(original, number)
        entries = self._analysis.trace.constants.get(source)
        base = output.name or original.op_type
        if entries is None and source.const_value is not None:
            entries = source.const_value.numpy()
        if entries is None or entries.shape != (len(sizes),):
            if any(not mask.all() for mask in masks):
                _set_input(copy, number, self._constant(f"{base}.shape", sizes))
            return
        keep = {"Reshape": (-1, 0), "Expand": (1,)}.get(original.op_type, ())
        patched = np.array(
            [not mask.all() and entry not in keep for mask, entry in zip(masks, entries, strict=True)]
        )
        if not patched.any():
            return
        if source not in self._analysis.trace.dynamic:
            array = np.where(patched, np.asarray(sizes, entries.dtype), entries)
            _set_input(copy, number, self._constant(f"{base}.shape", array))
            return
        sizes_before = [mask.size for mask in masks]
        factors = [np.gcd(after, before) for after, before in zip(sizes, sizes_before, strict=True)]
        scaled = self._insert(
            copy,
            "Mul",
            f"{base}.scaled",
            [
                self._values[source],
                self._constant(f"{base}.after", np.asarray(sizes, entries.dtype) // factors),
            ],
        )
        scaled = self._insert(
            copy,
            "Div",
            f"{base}.divided",
            [scaled, self._constant(f"{base}.before", np.asarray(sizes_before, entries.dtype) // factors)],
        )
        varying = self._analysis.trace.dynamic[source]
        fixed_sizes = np.where(varying, 0, np.asarray(sizes, entries.dtype))
        changed = self._insert(
            copy,
            "Where",
            f"{base}.changed",
            [
                self._constant(f"{base}.varying", varying),
                scaled,
                self._constant(f"{base}.sizes", fixed_sizes),
            ],
        )
        shape = self._insert(
            copy,
            "Where",
            f"{base}.shape",
            [self._constant(f"{base}.pruned", patched), changed, self._values[source]],
        )
        _set_input(copy, number, shape)

    def _insert(self, before: ir.Node, op: str, name: str, inputs: list[ir.Value]) -> ir.Value:
        """The output of a new node in front of another."""
        node = ir.node(op, inputs)
        node.outputs[0].name = node.name = fresh_name(self._names, name)
        self._graph.insert_before(before, node)
        return node.outputs[0]

    def _select(
        self, taken_axes: tuple[tuple[int, np.ndarray], ...], original: ir.Node, copy: ir.Node
    ) -> None:
        """Renumber; a Slice stays one where every axis still takes evenly spaced indices, else Gathers."""
        masks = self._mask(original.inputs[0])
        if all(masks[axis].all() for axis, _ in taken_axes):
            return
        base = original.outputs[0].name or original.op_type
        new = [(axis, _renumbered(indices, masks[axis])) for axis, indices in taken_axes]
        if original.op_type == "Gather":
            _set_input(copy, 1, self._constant(f"{base}.indices", new[0][1]))
            return
        bounds = [_bounds(indices) for _, indices in new]
        if all(bounds):
            starts, ends, steps = zip(*(item for item in bounds if item), strict=True)
            columns = {"starts": starts, "ends": ends, "axes": [axis for axis, _ in new], "steps": steps}
            for number, (name, column) in enumerate(columns.items(), start=1):
                _set_input(copy, number, self._constant(f"{base}.{name}", list(column)))
            return
        current = copy.inputs[0]
        for axis, indices in new[:-1]:
            assert current is not None
            part = [current, self._constant(f"{base}.indices", indices)]
            current = self._insert(copy, "Gather", f"{base}.part", part)
            producer = current.producer()
            assert producer is not None
            producer.attributes["axis"] = ir.AttrInt64("axis", axis)
        axis, indices = new[-1]
        copy.op_type = "Gather"
        copy.resize_inputs(2)
        copy.replace_input_with(0, current)
        copy.replace_input_with(1, self._constant(f"{base}.indices", indices))
        copy.attributes.clear()
        copy.attributes["axis"] = ir.AttrInt64("axis", axis)

    def _set_shapes(self) -> None:
        for value, copy in self._values.items():
            if value in self._analysis.sequences and self._changed(value):
                copy.shape = None
            if copy.shape is None or value not in self._analysis.axes or value in self._sliced:
                continue
            masks = self._mask(value)
            if value.producer() is not None and len(masks) == len(copy.shape):
                copy.shape = ir.Shape(
                    [
                        dim if mask.all() else int(mask.sum())
                        for dim, mask in zip(copy.shape, masks, strict=True)
                    ]
                )


def taken(array: np.ndarray, masks: list[np.ndarray]) -> np.ndarray:
    """The entries of an array that stay along every axis."""
    for axis, mask in enumerate(masks):
        if not mask.all():
            array = np.take(array, np.flatnonzero(mask), axis=axis)
    return array


def _values(model: ir.Model) -> list[ir.Value]:
    graph = model.graph
    found = [*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())]
    for node in graph:
        found.extend(node.outputs)
    return found


def _input(node: ir.Node, number: int) -> ir.Value:
    value = node.inputs[number]
    assert value is not None
    return value


def _set_input(node: ir.Node, number: int, value: ir.Value) -> None:
    if number >= len(node.inputs):
        node.resize_inputs(number + 1)
    node.replace_input_with(number, value)


def _renumbered(indices: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Positions among the kept entries of those indices that are kept."""
    return (np.cumsum(mask) - 1)[indices[mask[indices]]].astype(np.int64)


def _bounds(indices: np.ndarray) -> tuple[int, int, int] | None:
    """(start, end, step) of evenly spaced indices, as ONNX's Slice takes them, else None."""
    if len(indices) == 0:
        return 0, 0, 1
    start = int(indices[0])
    if len(indices) == 1:
        return start, start + 1, 1
    step = int(indices[1] - indices[0])
    if step == 0 or not bool((np.diff(indices) == step).all()):
        return None
    end = int(indices[-1]) + (1 if step > 0 else -1)
    return start, end if end >= 0 else -(2**31), step
