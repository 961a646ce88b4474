"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
