"""Who tells the lowering which forms layers get: a database, a survey that only looks, or a fixed list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsecc.tuning.database import Database

if TYPE_CHECKING:
    from sparsecc.targets.lower.layers import Layer

CLEARLY = 0.97
"""Time over that of the cost model's form below which another form is taken: less is noise."""


class DatabaseSelector:
    """Chooses the form that was measured fastest: on the same zeros, else on such shares of zeros.

    Args:
        databases: asked in turn, all for the exact key before any for the similar one.
        machine: the target that is compiled for.
    """

    def __init__(self, databases: Sequence[Database], machine: str) -> None:
        self._databases = databases
        self._machine = machine

    def select(
        self, node: str, layer: Layer, forms: Mapping[str, float], best: str
    ) -> tuple[str, str] | None:
        """See `Selector`."""
        key = layer.exact_key()
        for database in self._databases:
            found = fastest(database.exact(key, self._machine), forms, best)
            if found is not None:
                return found, self._why("", database.exact(key, self._machine), forms, found, best)
        key = layer.similar_key()
        for database in self._databases:
            seconds = database.similar(key, self._machine)
            found = fastest(seconds, forms, best)
            if found is not None:
                return found, self._why(" on such a layer", seconds, forms, found, best)
        return None

    @staticmethod
    def _why(
        where: str, seconds: Mapping[str, float], forms: Mapping[str, float], form: str, best: str
    ) -> str:
        count = sum(name in seconds for name in forms)
        text = f"measured fastest of {count} forms{where}"
        if form != best and best in seconds:
            text += f", {seconds[best] / seconds[form]:.2f} times as fast as the cost model's choice"
        return text


def fastest(seconds: Mapping[str, float], forms: Mapping[str, float], best: str) -> str | None:
    """The form with the least seconds, or `best`, the cost model's, where none is clearly faster.

    None where less than two of `forms` were measured: there is nothing to compare.
    """
    known = [form for form in forms if form in seconds]
    if len(known) < 2:
        return None
    found = min(known, key=lambda form: seconds[form])
    return best if best in known and seconds[found] > CLEARLY * seconds[best] else found


@dataclass(frozen=True)
class Surveyed:
    """What there is to choose from for one node.

    Attributes:
        key, layer: exact and similar key.
        forms: predicted seconds by form.
        best: the cost model's form.
    """

    key: str
    layer: str
    forms: Mapping[str, float]
    best: str

    def ranked(self, count: int, within: float) -> list[str]:
        """The cost model's form, and behind it the others by predicted time.

        Args:
            count: how many at most.
            within: leave out those that are predicted to take longer than this times the first.
        """
        limit = within * self.forms[self.best]
        others = (form for form in sorted(self.forms, key=self.forms.__getitem__) if form != self.best)
        return [self.best, *(form for form in others if self.forms[form] <= limit)][:count]


class Survey:
    """Leaves all to the cost model and remembers what there was to choose from.

    Attributes:
        layers: by node.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Surveyed] = {}

    def select(self, node: str, layer: Layer, forms: Mapping[str, float], best: str) -> None:
        """See `Selector`."""
        self.layers[node] = Surveyed(layer.exact_key(), layer.similar_key(), dict(forms), best)


class Fixed:
    """Gives nodes the forms of a list, and leaves others to the cost model."""

    def __init__(self, forms: Mapping[str, str]) -> None:
        self._forms = forms

    def select(
        self, node: str, layer: Layer, forms: Mapping[str, float], best: str
    ) -> tuple[str, str] | None:
        """See `Selector`."""
        form = self._forms.get(node)
        return (form, "to be measured") if form in forms and form is not None else None
