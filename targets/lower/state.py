"""What the lowering of one graph collects: buffers, stored values, kernels and steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.errors import LoweringError
from sparsecc.ir.edit import constant_of
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import LoopCall
from sparsecc.targets.kernels.nests import loop_call
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.layers import Layer
from sparsecc.targets.lower.memory import Buffer
from sparsecc.targets.machine import Machine
from sparsecc.targets.plan import Ref, Weights

Made = TypeVar("Made")

LARGEST_INDEX = 2**31 - 2**20  # what is left to int32 covers reads beyond a buffer


@dataclass(frozen=True)
class Stored:
    """One copy of a value: where it lies and how. `exact` memory may not be read outside its elements.

    Attributes:
        own: the buffer holds nothing but this value in this layout, so what is between may be written.
    """

    buffer: Buffer
    layout: Layout
    dtype: str
    own: bool = False

    @property
    def exact(self) -> bool:
        return self.buffer.fixed is not None

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Pointer:
    """A pointer argument before memory is planned: bytes from a buffer's start, or a place in the weights."""

    target: Buffer | Ref
    offset: int = 0


@dataclass
class PendingStep:
    """A step whose pointers still name buffers."""

    label: str
    kind: str
    symbol: str
    pointers: list[Pointer]
    scalars: list[int]
    extent: int


@dataclass
class LayerReport:
    """What was decided for one node with weights, for the user; `name` is the weight's for `sparsify`."""

    name: str
    node: str
    op: str
    shape: str
    pattern: str
    zeros: float
    kernel: str
    reason: str
    predicted_seconds: float
    predicted_dense_seconds: float
    steps: list[int] = field(default_factory=list[int])


class Selector(Protocol):
    """Knows better than the cost model which forms some layers should have."""

    def select(
        self, node: str, layer: Layer, forms: Mapping[str, float], best: str
    ) -> tuple[str, str] | None:
        """The form that a node's layer gets.

        Args:
            forms: what there is to choose from, with predicted seconds.
            best: of these the cost model's choice.

        Returns:
            One of `forms` and a sentence why, or None to leave it to the cost model.
        """
        ...


class Lowering:
    """The state of one lowering; the op modules add to it."""

    def __init__(
        self,
        model: ir.Model,
        machine: Machine,
        *,
        dense_only: bool = False,
        dense_layers: frozenset[str] = frozenset(),
        selector: Selector | None = None,
    ) -> None:
        self.model = model
        self._selector = selector
        self._dense_only, self._dense_layers = dense_only, dense_layers
        self.machine = machine
        self.weights = Weights()
        self.steps: list[PendingStep] = []
        self.makers: dict[str, Callable[[], Any]] = {}
        self.signatures: dict[str, tuple[int, int]] = {}
        self.layers: list[LayerReport] = []
        self.features = list(machine.features)
        self.alternatives: dict[str, str] = {}  # as `Plan` has them
        self._stored: dict[ir.Value, list[Stored]] = {}
        self._words: dict[ir.Value, Stored] = {}
        self._later: dict[ir.Value, Callable[[], None]] = {}
        self._made: dict[Hashable, Any] = {}
        self.copier: Callable[[Lowering, Stored, tuple[int, ...], Layout, str], Stored] | None = None
        self.after_copy: Callable[[ir.Value, Stored], None] | None = None
        self.loops: LoopCall = loop_call

    @cached_property
    def from_memory(self) -> bool:
        """Whether the nonzero weights are more than half of the last cache, which others use too."""
        arrays = (constant_of(value) for value in self.model.graph.initializers.values())
        stored = sum(int(np.count_nonzero(a)) * a.itemsize for a in arrays if a is not None and a.ndim > 1)
        return 2 * stored > self.machine.l3_bytes

    def keep_dense(self, node: str) -> bool:
        """Whether the caller wants this node's layer dense."""
        return self._dense_only or node in self._dense_layers

    def select(self, node: str) -> Callable[[Layer, Mapping[str, float], str], tuple[str, str] | None] | None:
        """The selector for this node, where there is one."""
        return None if self._selector is None else partial(self._selector.select, node)

    # values
    def define(self, value: ir.Value, stored: Stored) -> None:
        """Record a copy of `value`; the newest with a given layout wins."""
        self._stored.setdefault(value, []).append(stored)

    def define_words(self, value: ir.Value, stored: Stored) -> None:
        """Record that `value` is stored as words of codes."""
        self._words[value] = stored

    def has_words(self, value: ir.Value) -> bool:
        """Whether a step has written the words of a value."""
        return value in self._words

    def words(self, value: ir.Value) -> Stored:
        """The words of a value that is stored so."""
        return self._words[value]

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returned when it was first called for `key`."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def define_later(self, value: ir.Value, make: Callable[[], None]) -> None:
        """Let `make` define `value` when somebody wants it."""
        self._later[value] = make

    def use(self, feature: str) -> None:
        """Record that a kernel needs a CPU feature, if it is one."""
        if feature and feature not in self.features:
            self.features.append(feature)

    def versions(self, value: ir.Value) -> list[Stored]:
        """All copies of a value; the first one lives longest."""
        if value in self._later:
            self._later.pop(value)()
        found = self._stored.get(value)
        if found is None:
            array = constant_of(value)
            if array is None:
                raise LoweringError(f"value {value.name!r} is used before anything computes it")
            found = [self.constant(array)]
            self._stored[value] = found
        return found

    def constant(self, array: npt.NDArray[Any]) -> Stored:
        """A constant in row-major layout."""
        check_index("a constant", array.size)
        ref = self.weights.add(array)
        return Stored(Buffer.at(ref, array.nbytes), Layout.rows(array.shape), str(array.dtype))

    def constant_in(self, array: npt.NDArray[Any], layout: Layout) -> Stored:
        """A constant in any layout, zeros between its elements."""
        check_index("a constant", layout.size)
        memory = np.zeros(layout.size, array.dtype)
        strides = [s * array.itemsize for s in layout.strides]
        np.lib.stride_tricks.as_strided(memory[layout.origin :], array.shape, strides)[...] = array
        return Stored(Buffer.at(self.weights.add(memory), memory.nbytes), layout, str(array.dtype))

    def any_version(self, value: ir.Value) -> Stored:
        return self.versions(value)[0]

    def require(
        self, value: ir.Value, accepts: Callable[[Stored], bool], layout: Callable[[], Layout]
    ) -> Stored:
        """A copy of `value` that `accepts` likes; if there is none, one is made in `layout`."""
        for stored in self.versions(value):
            if accepts(stored):
                return stored
        assert self.copier is not None
        made = self.copier(self, self.any_version(value), shape_of(value), layout(), value.name or "")
        self.define(value, made)
        if self.after_copy is not None:
            self.after_copy(value, made)
        return made

    def buffer(self, layout: Layout, dtype: str, name: str) -> Stored:
        """A new arena buffer for a value in `layout`."""
        check_index(name, layout.size)
        return Stored(Buffer(name, layout.size * np.dtype(dtype).itemsize), layout, dtype, own=True)

    # kernels and steps
    def kernel(self, prefix: str, form: object, make: Callable[[str], Any]) -> str:
        """Register the kernel of a form; returns its symbol."""
        symbol = structural_name(prefix, form)
        self.makers.setdefault(symbol, lambda: make(symbol))
        return symbol

    def step(
        self,
        label: str,
        kind: str,
        symbol: str,
        pointers: Sequence[Pointer],
        scalars: Sequence[int],
        extent: int,
    ) -> int:
        """Append a kernel call; returns its index."""
        signature = (len(pointers), len(scalars))
        if self.signatures.setdefault(symbol, signature) != signature:
            raise LoweringError(f"kernel {symbol} is called with two signatures")
        if symbol in self.alternatives:
            self.signatures[self.alternatives[symbol]] = signature
        index = len(self.steps)
        for pointer in pointers:
            if isinstance(pointer.target, Buffer):
                pointer.target.touch(index)
        for number in (*scalars, extent):
            check_index(label, number)
        self.steps.append(
            PendingStep(label, kind, symbol, list(pointers), [int(s) for s in scalars], int(extent))
        )
        return index

    def pack(self, *arrays: npt.NDArray[Any]) -> list[Pointer]:
        """Put arrays into the weights file."""
        for array in arrays:
            check_index("a packed weight", array.size)
        return [Pointer(self.weights.add(a)) for a in arrays]


def check_index(what: str, index: int) -> None:
    """Kernels count elements in int32, and may look a little beyond the last one.

    Raises:
        LoweringError: `index` is beyond that.
    """
    if not -LARGEST_INDEX <= index <= LARGEST_INDEX:
        raise LoweringError(
            f"{what} needs element index {index}, and kernels count to {LARGEST_INDEX}; "
            "use a smaller batch or shape"
        )


def at_origin(stored: Stored) -> Pointer:
    """A pointer to element (0, 0, ...)."""
    return Pointer(stored.buffer, stored.layout.origin * stored.itemsize)


def base(stored: Stored) -> Pointer:
    """A pointer to the buffer's start; the kernel adds the origin."""
    return Pointer(stored.buffer)


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape.

    Raises:
        LoweringError: a dimension is not a number.
    """
    shape = value.shape
    if shape is None or not shape.is_static():
        node = value.producer()
        maker = "" if node is None else f" (from {node.op_type} node {node.name!r})"
        raise LoweringError(
            f"value {value.name!r}{maker} has no static shape; give the inputs' shapes with "
            "--shape name=1,3,224,224, and avoid ops whose output's size depends on data"
        )
    return tuple(int(d) for d in shape.dims)  # type: ignore[arg-type]


def dtype_of(value: ir.Value) -> str:
    """The numpy name of the element type."""
    if value.dtype is None:
        raise LoweringError(f"value {value.name!r} has no element type")
    return str(value.dtype.numpy())
