"""What must change on a node when axes shrink, as data: rules say it, the rewriter does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsecc.axes.dims import AxisExpr


@dataclass(frozen=True)
class SetAttribute:
    """An integer attribute that counts the indices of an axis, such as `group` or `hidden_size`."""

    name: str
    axis: AxisExpr


@dataclass(frozen=True)
class PinAttribute:
    """A float attribute whose default is computed from an axis that shrinks, such as `scale` of Attention."""

    name: str
    value: float


@dataclass(frozen=True)
class PinInput:
    """An integer input whose default is found from sizes, such as `axes` of Squeeze: say it outright."""

    input: int
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class SetShape:
    """The constant input number `input` holds the sizes of the first output, as in Reshape and Expand."""

    input: int


@dataclass(frozen=True)
class SetSplit:
    """The constant input number `input` holds the sizes of the outputs along `axis`."""

    input: int
    axis: int


@dataclass(frozen=True)
class SetSequenceSplit:
    """The constant input number `input` holds the sizes of the elements of the output sequence."""

    input: int
    axes: tuple[AxisExpr, ...]


@dataclass(frozen=True)
class SetRepeats:
    """The constant input number `input` holds the repeats of a Tile."""

    input: int


@dataclass(frozen=True)
class SetRows:
    """The constant input number `input` holds the rows of input 0 that a ScatterND writes."""

    input: int
    rows: np.ndarray


@dataclass(frozen=True)
class SetIndices:
    """The constant input number `input` holds indices along an axis: drop those that go, renumber the rest.

    Attributes:
        input: of the node.
        axis: the axis of input 0 that is indexed.
        indices: the constant, none negative, of any rank.
    """

    input: int
    axis: AxisExpr
    indices: np.ndarray


@dataclass(frozen=True)
class Select:
    """The node takes constant indices along axes of input 0, as in Slice and Gather.

    Attributes:
        taken: (axis, 1-D indices without negative ones) in the order of application.
    """

    taken: tuple[tuple[int, np.ndarray], ...]


Edit = (
    SetAttribute
    | PinAttribute
    | PinInput
    | SetShape
    | SetSplit
    | SetSequenceSplit
    | SetRepeats
    | SetRows
    | SetIndices
    | Select
)
