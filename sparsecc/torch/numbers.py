"""Arithmetic on shapes as Python numbers, so that Shape -> Gather -> Concat -> Reshape needs no tensors.

A number is an int, float or bool or torch's symbolic form of one, which is what torch.export makes of a
dynamic dimension; a list of them stands for a tensor of one axis. Each function is an op on such values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sparsecc.torch.op import Op

Number: TypeAlias = Any
"""int, float, bool, torch.SymInt, torch.SymFloat or torch.SymBool."""
Numbers: TypeAlias = Any
"""A number, or a list of them."""


def is_list(x: Numbers) -> bool:
    """Whether it stands for a tensor of one axis."""
    return isinstance(x, list | tuple)


def scalar(x: Numbers) -> Number:
    """The number of an input that may be given as a scalar or as a list of one."""
    return x[0] if is_list(x) else x


def to_tensor(
    x: Numbers, *, output_dtype: torch.dtype = torch.int64, device: torch.device | None = None
) -> Tensor:
    """Numbers as a tensor, symbolic ones included."""
    if not is_list(x):
        return torch.scalar_tensor(x, dtype=output_dtype, device=device)
    if all(isinstance(item, bool | int | float) for item in x):
        return torch.tensor(list(x), dtype=output_dtype, device=device)
    return torch.stack([torch.scalar_tensor(item, dtype=output_dtype, device=device) for item in x])


def to_numbers(x: Tensor) -> Numbers:
    """What a tensor of at most one axis holds; its data is read, so torch.export sees unbacked numbers."""
    return x.tolist()


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> list[Number]:
    """Dimensions from `start` to before `end`."""
    return list(x.shape)[start:end]


def size(x: Tensor) -> Number:
    """Number of elements."""
    return x.numel()


def sequence_length(sequence: list[Tensor]) -> int:
    """Number of tensors in a sequence."""
    return len(sequence)


def _each(function: Callable[..., Number], *operands: Numbers) -> Numbers:
    """Apply to numbers, or item by item where a list is among them; a list of one broadcasts."""
    lengths = [len(x) for x in operands if is_list(x)]
    if not lengths:
        return function(*operands)
    length = 0 if 0 in lengths else max(lengths)
    columns = [list(x) if is_list(x) else [x] for x in operands]
    columns = [column * length if len(column) == 1 else column for column in columns]
    return [function(*row) for row in zip(*columns, strict=True)] if length else []


def _is_float(x: Number) -> bool:
    return isinstance(x, float | torch.SymFloat)


def _quotient(a: Number, b: Number) -> Number:
    if _is_float(a) or _is_float(b):
        return a / b
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def _cast(x: Number, to: torch.dtype) -> Number:
    if to.is_floating_point:
        return torch.sym_float(x)
    if to is torch.bool:
        return x != 0
    return torch.sym_int(x) if _is_float(x) else x + 0


def add(a: Numbers, b: Numbers) -> Numbers:
    """a + b."""
    return _each(operator.add, a, b)


def sub(a: Numbers, b: Numbers) -> Numbers:
    """a - b."""
    return _each(operator.sub, a, b)


def mul(a: Numbers, b: Numbers) -> Numbers:
    """a * b."""
    return _each(operator.mul, a, b)


def div(a: Numbers, b: Numbers) -> Numbers:
    """a / b; integers are truncated towards zero."""
    return _each(_quotient, a, b)


def mod(a: Numbers, b: Numbers, *, fmod: int = 0) -> Numbers:
    """Remainder with the sign of the divisor, or of the dividend where `fmod` is set."""
    return _each(math.fmod if fmod else operator.mod, a, b)


def neg(x: Numbers) -> Numbers:
    """-x."""
    return _each(operator.neg, x)


def absolute(x: Numbers) -> Numbers:
    """|x|."""
    return _each(operator.abs, x)


def sqrt(x: Numbers) -> Numbers:
    """Square root, such as of the size of a head."""
    return _each(torch.sym_sqrt, x)


def floor(x: Numbers) -> Numbers:
    """Next lower whole number, still a float."""
    return _each(lambda item: torch.sym_float(math.floor(item)), x)


def ceil(x: Numbers) -> Numbers:
    """Next higher whole number, still a float."""
    return _each(lambda item: torch.sym_float(math.ceil(item)), x)


def minimum(*operands: Numbers) -> Numbers:
    """Smallest, item by item."""
    return _each(lambda *items: reduce(torch.sym_min, items), *operands)


def maximum(*operands: Numbers) -> Numbers:
    """Largest, item by item."""
    return _each(lambda *items: reduce(torch.sym_max, items), *operands)


def equal(a: Numbers, b: Numbers) -> Numbers:
    """a == b."""
    return _each(operator.eq, a, b)


def less(a: Numbers, b: Numbers) -> Numbers:
    """a < b."""
    return _each(operator.lt, a, b)


def less_or_equal(a: Numbers, b: Numbers) -> Numbers:
    """a <= b."""
    return _each(operator.le, a, b)


def greater(a: Numbers, b: Numbers) -> Numbers:
    """a > b."""
    return _each(operator.gt, a, b)


def greater_or_equal(a: Numbers, b: Numbers) -> Numbers:
    """a >= b."""
    return _each(operator.ge, a, b)


def logical_and(a: Numbers, b: Numbers) -> Numbers:
    """Both."""
    return _each(lambda x, y: y if x else x, a, b)


def logical_or(a: Numbers, b: Numbers) -> Numbers:
    """One or both."""
    return _each(lambda x, y: x if x else y, a, b)


def logical_not(x: Numbers) -> Numbers:
    """Not."""
    return _each(operator.not_, x)


def where(condition: Numbers, a: Numbers, b: Numbers) -> Numbers:
    """a where the condition holds, else b."""
    return _each(lambda chosen, x, y: x if chosen else y, condition, a, b)


def cast(x: Numbers, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Numbers:
    """Numbers of another kind; the options are about floats of 8 bits."""
    return _each(lambda item: _cast(item, to), x)


def identity(x: Numbers) -> Numbers:
    """The input."""
    return x


def gather(x: Numbers, indices: Numbers, *, axis: int = 0) -> Numbers:
    """Items at positions, counted from the end where negative."""
    return [x[int(index)] for index in indices] if is_list(indices) else x[int(indices)]


def cut(x: Numbers, starts: Numbers, ends: Numbers, axes: Numbers = None, steps: Numbers = None) -> Numbers:
    """A slice of a list."""
    step = 1 if steps is None else scalar(steps)
    end = scalar(ends)
    beyond = step < 0 and end < -len(x)
    return list(x)[scalar(starts) : None if beyond else end : step]


def concat(*operands: Numbers, axis: int = 0) -> list[Number]:
    """Lists one after the other."""
    return [item for x in operands for item in x]


def squeeze(x: Numbers, axes: Numbers = None) -> Numbers:
    """The number of a list of one."""
    return scalar(x)


def unsqueeze(x: Numbers, axes: Numbers) -> list[Number]:
    """A list of one number."""
    return [x]


def reshape(x: Numbers, shape: Numbers, *, allowzero: int = 0) -> Numbers:
    """A number as a list of one, or the other way round."""
    if not shape:
        return scalar(x)
    return list(x) if is_list(x) else [x]


def _reduce(function: Callable[[Number, Number], Number], x: Numbers, keepdims: int) -> Numbers:
    result = reduce(function, x) if is_list(x) else x
    return [result] if keepdims and is_list(x) else result


def reduce_prod(
    x: Numbers, axes: Numbers = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Numbers:
    """Product of all numbers."""
    return x if axes is None and noop_with_empty_axes else _reduce(operator.mul, x, keepdims)


def reduce_sum(
    x: Numbers, axes: Numbers = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Numbers:
    """Sum of all numbers."""
    return x if axes is None and noop_with_empty_axes else _reduce(operator.add, x, keepdims)


def reduce_max(
    x: Numbers, axes: Numbers = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Numbers:
    """Largest number."""
    return x if axes is None and noop_with_empty_axes else _reduce(torch.sym_max, x, keepdims)


def reduce_min(
    x: Numbers, axes: Numbers = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Numbers:
    """Smallest number."""
    return x if axes is None and noop_with_empty_axes else _reduce(torch.sym_min, x, keepdims)


SOURCES = {
    "SequenceLength": Op(sequence_length),
    "Shape": Op(shape),
    "Size": Op(size),
}
"""Ops that make numbers of a tensor or sequence."""

NUMBER_OPS = {
    "Abs": Op(absolute),
    "Add": Op(add),
    "And": Op(logical_and),
    "Cast": Op(cast),
    "Ceil": Op(ceil),
    "Concat": Op(concat),
    "Div": Op(div),
    "Equal": Op(equal),
    "Floor": Op(floor),
    "Gather": Op(gather),
    "Greater": Op(greater),
    "GreaterOrEqual": Op(greater_or_equal),
    "Identity": Op(identity),
    "Less": Op(less),
    "LessOrEqual": Op(less_or_equal),
    "Max": Op(maximum),
    "Min": Op(minimum),
    "Mod": Op(mod),
    "Mul": Op(mul),
    "Neg": Op(neg),
    "Not": Op(logical_not),
    "Or": Op(logical_or),
    "ReduceMax": Op(reduce_max),
    "ReduceMin": Op(reduce_min),
    "ReduceProd": Op(reduce_prod),
    "ReduceSum": Op(reduce_sum),
    "Reshape": Op(reshape),
    "Slice": Op(cut),
    "Sqrt": Op(sqrt),
    "Squeeze": Op(squeeze),
    "Sub": Op(sub),
    "Unsqueeze": Op(unsqueeze),
    "Where": Op(where),
}
"""Ops on numbers and lists of numbers that give such again."""
