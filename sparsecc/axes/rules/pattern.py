"""Rules for custom ops from a pattern: `x[n,(g i),*s!] w[(g o),i] bias[(g o)] -> y[n,(g o),*t!]`.

Equal names are one axis, `(a b)` is a row-major product, `*s` any number of axes, `1` an axis of size one and
`k[]` a single number; `!` keeps all indices, `~` marks axes of the first input over which statistics run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr, expand, size_of
from sparsecc.axes.rules.registry import Zero
from sparsecc.errors import UsageError

_OPERAND = re.compile(r"\s*([A-Za-z_]\w*)\[([^\[\]]*)\]")
_TERM = re.compile(r"(\*?)(?:([A-Za-z_]\w*)|(1)|\(([^()]*)\))([!~]?)")
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Term:
    """One axis of an operand, or a run of axes.

    Attributes:
        names: factors, row-major; none is an axis of size one.
        star: whether it stands for any number of axes.
        mark: "!", "~" or nothing.
    """

    names: tuple[str, ...]
    star: bool
    mark: str


@dataclass(frozen=True)
class Operand:
    """An input or output."""

    name: str
    terms: tuple[Term, ...]

    @property
    def star(self) -> int | None:
        """Place of the term that stands for any number of axes."""
        return next((place for place, term in enumerate(self.terms) if term.star), None)


def axes_from_pattern(pattern: str, zero: Zero = Zero.LOST) -> Callable[[OpContext], None]:
    """The rule that a pattern describes.

    Args:
        pattern: inputs `->` outputs. Trailing inputs and outputs may be missing on a node. An axis that only
            outputs have keeps all indices, and so does one that only inputs have unless the op sums.
        zero: what the op makes of zeros; only one that sums may lose an axis that is not kept.

    Raises:
        UsageError: the pattern cannot be read.
    """
    left, arrow, right = pattern.partition("->")
    if not arrow or "->" in right:
        raise UsageError(f"expected inputs -> outputs with one arrow in the pattern {pattern!r}")
    inputs, outputs = _operands(left, pattern), _operands(right, pattern)
    if not inputs or not outputs:
        raise UsageError(f"expected at least one input and one output in the pattern {pattern!r}")
    _check(inputs, outputs, pattern)
    rule = _PatternRule(inputs, outputs, zero)
    return rule.apply


def _operands(text: str, pattern: str) -> tuple[Operand, ...]:
    found: list[Operand] = []
    place = 0
    while text[place:].strip():
        match = _OPERAND.match(text, place)
        if match is None:
            raise UsageError(
                f"expected an operand such as x[n,c] at {text[place:].strip()!r} in the pattern {pattern!r}"
            )
        name, inner = match.groups()
        terms = tuple(_term(item.strip(), pattern) for item in inner.split(",")) if inner.strip() else ()
        found.append(Operand(name, terms))
        place = match.end()
    return tuple(found)


def _term(text: str, pattern: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"expected an axis such as c, c!, *s, 1 or (g c) instead of {text!r} in the pattern {pattern!r}"
        )
    star, name, unit, product, mark = match.groups()
    if name:
        return Term((name,), bool(star), mark)
    if star or (unit and mark):
        raise UsageError(f"{text!r} in the pattern {pattern!r} has a mark that only names can have")
    names = () if unit else tuple(product.split())
    if not unit and (len(names) < 2 or not all(_NAME.fullmatch(item) for item in names)):
        raise UsageError(f"expected two or more names in {text!r} in the pattern {pattern!r}")
    return Term(names, False, mark)


def _check(inputs: Sequence[Operand], outputs: Sequence[Operand], pattern: str) -> None:
    names = [operand.name for operand in (*inputs, *outputs)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two operands have the name {name} in the pattern {pattern!r}")
    runs = {name for term in _terms((*inputs, *outputs)) if term.star for name in term.names}
    for term in _terms((*inputs, *outputs)):
        for name in term.names:
            if name in runs and not term.star:
                raise UsageError(f"{name} is one axis and *{name} many in the pattern {pattern!r}")
    for operand in (*inputs, *outputs):
        if sum(term.star for term in operand.terms) > 1:
            raise UsageError(f"{operand.name} has more than one * in the pattern {pattern!r}")
    if any(term.mark == "~" for term in _terms((*inputs[1:], *outputs))):
        raise UsageError(f"only axes of the first input can have ~ in the pattern {pattern!r}")


def _terms(operands: Iterable[Operand]) -> Iterable[Term]:
    return (term for operand in operands for term in operand.terms)


class _PatternRule:
    """A rule that unifies by names; what a node has is bound first by plain names, then by products."""

    def __init__(self, inputs: Sequence[Operand], outputs: Sequence[Operand], zero: Zero) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._zero = zero
        self._surviving = {name for term in _terms(outputs) for name in term.names}

    def apply(self, node: OpContext) -> None:
        """Unify the axes of a node's inputs and set those of its outputs."""
        if len(node.node.inputs) > len(self._inputs) or len(node.node.outputs) > len(self._outputs):
            raise RuleError(
                f"its pattern has {len(self._inputs)} inputs and {len(self._outputs)} outputs, the node has "
                f"{len(node.node.inputs)} and {len(node.node.outputs)}"
            )
        bound: dict[str, AxisExpr] = {}
        runs: dict[str, list[AxisExpr]] = {}
        products: list[tuple[Term, AxisExpr]] = []
        placed: list[tuple[int, range, Term]] = []
        for number, operand in enumerate(self._inputs):
            if not node.has(number):
                continue
            axes = node.axes(number)
            for places, term in _place(operand, axes):
                placed.append((number, places, term))
                if term.star:
                    _bind_run(node, term.names[0], [axes[place] for place in places], runs)
                elif len(term.names) == 1:
                    _bind(node, term.names[0], axes[places[0]], bound)
                elif term.names:
                    products.append((term, axes[places[0]]))
        _solve(node, products, bound)
        self._mark(node, placed)
        self._drop(node, placed, bound)
        for number, operand in enumerate(self._outputs):
            if node.gives(number):
                node.set(number, _result(node, number, operand, bound, runs))

    def _mark(self, node: OpContext, placed: list[tuple[int, range, Term]]) -> None:
        """Keep axes, or count them as statistics, as the pattern's marks say."""
        normed: list[int] = []
        for number, places, term in placed:
            for place in places:
                axis = node.axes(number)[place]
                if not term.names and size_of(axis) != 1:
                    raise RuleError(f"axis {place} of input {number} has size {size_of(axis)}, not 1")
                if term.mark == "!" or not term.names:
                    node.freeze(axis, *_KEPT)
                elif term.mark == "~":
                    normed.append(place)
        if normed:
            node.statistics(normed)

    def _drop(
        self, node: OpContext, placed: list[tuple[int, range, Term]], bound: dict[str, AxisExpr]
    ) -> None:
        """Names that no output has are summed away by ops that sum, and kept by all others."""
        summed: list[int] = []
        for number, places, term in placed:
            gone = [name for name in term.names if name not in self._surviving]
            if not gone or term.mark == "!":
                continue
            if self._zero is Zero.CONTRACTION:
                node.contract(*((number, place) for place in places))
            elif self._zero in (Zero.REDUCTION, Zero.STATISTIC):
                if number or len(gone) < len(term.names):
                    raise RuleError(
                        f"{' and '.join(gone)} must be whole axes of the first input to be summed"
                    )
                summed.extend(places)
            else:
                why = "its op drops the axis and is not said to sum"
                for place in places:
                    for axis in [node.axes(number)[place]] if term.star else [bound[name] for name in gone]:
                        node.freeze(axis, why, "pattern")
        if summed:
            node.facts.reduced = tuple(summed)
            if self._zero is Zero.STATISTIC:
                node.statistics(summed)


def _place(operand: Operand, axes: Sequence[object]) -> list[tuple[range, Term]]:
    """Which axes each term stands for."""
    star = operand.star
    extra = len(axes) - len(operand.terms) + (star is not None)
    if extra < 0 or (star is None and extra):
        raise RuleError(f"{operand.name} has {len(axes)} axes, its pattern {len(operand.terms)}")
    result: list[tuple[range, Term]] = []
    start = 0
    for place, term in enumerate(operand.terms):
        length = extra if place == star else 1
        result.append((range(start, start + length), term))
        start += length
    return result


def _bind(node: OpContext, name: str, axis: AxisExpr, bound: dict[str, AxisExpr]) -> None:
    known = bound.setdefault(name, axis)
    if size_of(known) != size_of(axis):
        raise RuleError(f"axis {name} has the sizes {size_of(known)} and {size_of(axis)}")
    node.unify(known, axis)


def _bind_run(node: OpContext, name: str, axes: list[AxisExpr], runs: dict[str, list[AxisExpr]]) -> None:
    known = runs.setdefault(name, axes)
    if [size_of(axis) for axis in known] != [size_of(axis) for axis in axes]:
        raise RuleError(f"axes *{name} have different sizes in two operands")
    for one, other in zip(known, axes, strict=True):
        node.unify(one, other)


def _solve(node: OpContext, products: list[tuple[Term, AxisExpr]], bound: dict[str, AxisExpr]) -> None:
    """Bind the factors of products, those first of which all factors but one are known."""
    waiting = list(products)
    while waiting:
        ready = next((item for item in waiting if _unknown(item[0], bound) <= 1), None)
        if ready is None:
            raise RuleError(f"the sizes of {' and '.join(waiting[0][0].names)} cannot be told apart")
        waiting.remove(ready)
        term, axis = ready
        sizes = _sizes(term, size_of(axis), bound)
        for name, factor in zip(term.names, node.reshape([axis], sizes), strict=True):
            _bind(node, name, factor, bound)


def _unknown(term: Term, bound: dict[str, AxisExpr]) -> int:
    return sum(name not in bound for name in term.names)


def _sizes(term: Term, total: int, bound: dict[str, AxisExpr]) -> list[int]:
    """Sizes of the factors of an axis, of which at most one is unknown."""
    known = math.prod(size_of(bound[name]) for name in term.names if name in bound)
    rest, left = divmod(total, known)
    if left or (rest != 1 and not _unknown(term, bound)):
        raise RuleError(f"an axis of {total} is no product of {' and '.join(term.names)}")
    return [size_of(bound[name]) if name in bound else rest for name in term.names]


def _result(
    node: OpContext,
    number: int,
    operand: Operand,
    bound: dict[str, AxisExpr],
    runs: dict[str, list[AxisExpr]],
) -> list[AxisExpr]:
    """Axes of an output; names that no input has are new and frozen."""
    shape = node.out_shape(number)
    result: list[AxisExpr] = []
    for places, term in _place(operand, shape):
        sizes = [shape[place] for place in places]
        if term.star:
            axes = runs.setdefault(term.names[0], [node.fixed(size, *_NEW) for size in sizes])
        else:
            missing = [name for name in term.names if name not in bound]
            if len(missing) > 1:
                raise RuleError(f"the sizes of {' and '.join(missing)} cannot be told apart")
            if missing:
                for name, size in zip(term.names, _sizes(term, sizes[0], bound), strict=True):
                    bound.setdefault(name, node.fixed(size, *_NEW))
            axes = [expand(tuple(dim for name in term.names for dim in bound[name]))]
        if [size_of(axis) for axis in axes] != sizes:
            raise RuleError(f"output {operand.name} has the sizes {shape}, which its pattern does not give")
        if term.mark == "!":
            for axis in axes:
                node.freeze(axis, *_KEPT)
        result.extend(axes)
    return result


_NEW = ("its op makes this axis", "new-axis")
_KEPT = ("the pattern of its op keeps it", "pattern")
