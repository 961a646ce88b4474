"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsecc.errors import Refusal
    from sparsecc.passes.prune_plan import PrunedGroup
    from sparsecc.sparsifier import LayerZeros


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell; heads that start with # are of columns aligned to the right."""
    names = [head.removeprefix("#") for head in heads]
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if head.startswith("#") else cell.ljust(width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join(line(row) for row in (names, *cells))


def layer_table(layers: Iterable[LayerZeros], refusals: Iterable[Refusal]) -> str:
    """The zeros of each weight, and why some have none."""
    reasons = {refusal.where: refusal.reason for refusal in refusals}
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            layer.pattern,
            f"{layer.zeros:.1%}",
            reasons.get(layer.name, ""),
        )
        for layer in layers
    ]
    return table(("layer", "shape", "pattern", "#zeros", "left as it was because"), rows)


def group_table(groups: Iterable[PrunedGroup]) -> str:
    """What groups of channels, heads and features lost."""
    rows = [
        (
            group.name,
            group.kind,
            f"{group.size:,}",
            f"{len(group.kept):,}",
            f"{1 - len(group.kept) / group.size:.1%}",
        )
        for group in groups
    ]
    return table(("group", "kind", "#before", "#after", "#gone"), rows)
