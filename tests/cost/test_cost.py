"""The cost model: its files of constants, and that more work never costs less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsecc.cost import (
    SpmmShape,
    VectorMachine,
    bitmap_seconds,
    constants_for,
    csr_seconds,
    groups_seconds,
    lookup_seconds,
    nibbles_seconds,
    rows_seconds,
    spmm_seconds,
)
from sparsecc.cost.constants import constants_file

MACHINE = VectorMachine(16)
SHAPE = SpmmShape(
    rows=4, width=4.0, tiles=4, entries=64, blocks=4096, outputs=4096, inputs=4096.0, input_bytes=2.0**18,
    weight_bytes=2**16, chunk_bytes=2.0**15, unaligned=False, chunked=False, chains=1,
)  # fmt: skip


def test_unknown_cpus_have_the_default() -> None:
    assert constants_for("Nobody 1") == constants_for("") == constants_for("default")


@pytest.mark.parametrize("path", sorted(constants_file("").parent.glob("*.json")), ids=lambda p: p.stem)
def test_constants_are_positive(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert set(found) == {"spmm", "dots", "rows"}
    assert all(value > 0 for part in found.values() for value in part.values())
    constants_for(path.stem)


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(
    "field",
    [
        "tiles",
        "entries",
        "blocks",
        "outputs",
        "inputs",
        "input_bytes",
        "weight_bytes",
        "chunk_bytes",
        "batch",
    ],
)
def test_more_takes_longer(field: str, words: bool) -> None:
    shape = replace(SHAPE, words=words, input_bytes=2.0**20)
    more = replace(shape, **{field: getattr(shape, field) * 2})
    assert 0 < spmm_seconds(shape, MACHINE) <= spmm_seconds(more, MACHINE)


def test_what_slows_down() -> None:
    plain = spmm_seconds(SHAPE, MACHINE)
    assert spmm_seconds(replace(SHAPE, unaligned=True), MACHINE) > plain
    assert spmm_seconds(replace(SHAPE, chunked=True), MACHINE) > plain
    narrow = replace(SHAPE, rows=1, width=1.0)
    assert spmm_seconds(narrow, MACHINE) > spmm_seconds(replace(narrow, chains=4), MACHINE)
    assert spmm_seconds(SHAPE, replace(MACHINE, l1_bytes=2**10)) > plain


@pytest.mark.parametrize("from_memory", [False, True])
def test_few_columns(from_memory: bool) -> None:
    machine = replace(MACHINE, from_memory=from_memory)
    for bytes_of_value in (1, 2, 4):
        for columns in (1, 4):
            pairs = [
                [
                    rows_seconds(n, columns, 16, machine, dense=False, value_bytes=bytes_of_value)
                    for n in (100, 200)
                ],
                [lookup_seconds(n, 10, columns, machine, bytes_of_value) for n in (100, 200)],
                [bitmap_seconds(n * 64, n, columns, machine, bytes_of_value) for n in (100, 200)],
                [csr_seconds(n, 64, columns, 4, machine) for n in (100, 200)],
                [nibbles_seconds(n * 64, columns, machine) for n in (100, 200)],
                [groups_seconds(n, 64, columns, machine) for n in (100, 200)],
            ]
            assert all(0 < less < more for less, more in pairs)
    assert rows_seconds(10**6, 1, 16, replace(MACHINE, from_memory=True), dense=True) > rows_seconds(
        10**6, 1, 16, MACHINE, dense=True
    )
