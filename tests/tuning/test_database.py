"""The file of measurements: what is written is read, damage is found or mended, keys say what is alike."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from sparsecc.errors import UsageError
from sparsecc.host import host_cpu
from sparsecc.targets.lower.layers import RowsLayer, SpmmLayer
from sparsecc.targets.sources import kernel_version
from sparsecc.tuning import Database, DatabaseSelector, open_databases
from sparsecc.tuning.database import SHIPPED, read_records, write_records

MACHINE = "x86-64-v4"


def weights(seed: int = 0, share: float = 0.8, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    """Of one share the same columns in another order for each seed."""
    rng = np.random.default_rng(0)
    matrix = ((rng.random(shape) >= share) * rng.standard_normal(shape)).astype(np.float32)
    return matrix[:, np.random.default_rng(seed).permutation(shape[1])]


def layer(seed: int = 0, share: float = 0.8) -> SpmmLayer:
    return SpmmLayer(weights(seed, share), 13, 1, 64, 1)


def add(database: Database, of: SpmmLayer, **seconds: float) -> None:
    database.add(of.similar_key(), of.exact_key(), MACHINE, seconds)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "t.jsonl"
    first, other = layer(0), layer(1)
    database = Database(path)
    add(database, first, a=1e-5, b=2e-5)
    add(database, other, a=3e-5)
    add(database, first, b=1.5e-5)
    for found in (database, Database(path)):
        assert found.exact(first.exact_key(), MACHINE) == {"a": 1e-5, "b": 1.5e-5}
        assert found.exact(other.exact_key(), MACHINE) == {"a": 3e-5}
        assert found.exact(first.exact_key(), "x86-64-v3") == {}
        assert found.similar(first.similar_key(), MACHINE) == {"a": 3e-5, "b": 1.5e-5}
    assert all(json.loads(line)["layer"].startswith("spmm 64x64") for line in path.read_text().splitlines())


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_cut_last_line_is_no_harm(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "t.jsonl"
    first, other = layer(0), layer(1)
    add(Database(path), first, a=1e-5)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    database = Database(path)
    assert database.exact(first.exact_key(), MACHINE) == {"a": 1e-5}
    add(database, other, a=2e-5)
    assert path.read_bytes().startswith(whole)
    assert len(read_records(path)) == 2
    assert Database(path).exact(other.exact_key(), MACHINE) == {"a": 2e-5}


@pytest.mark.parametrize(
    "text",
    ["hello", "{}", "[1]", '{"layer": 1}', "\x00\xff", "null"],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.jsonl"
    add(Database(path), layer(), a=1e-5)
    path.write_bytes(path.read_bytes() + text.encode("latin-1") + b"\n")
    with pytest.raises(UsageError, match=r"t\.jsonl, line 2: expected a measurement"):
        Database(path)


@pytest.mark.parametrize("seconds", [-1, True, "1", None, 1e9, float("nan")])
def test_wrong_seconds_are_named(tmp_path: Path, seconds: object) -> None:
    path = tmp_path / "t.jsonl"
    add(Database(path), layer(), a=1e-5)
    entry = json.loads(path.read_text()) | {"seconds": {"a": seconds}}
    path.write_text(json.dumps(entry) + "\n")
    with pytest.raises(UsageError, match="line 1"):
        Database(path)


def test_files_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Database(tmp_path)
    with pytest.raises(UsageError, match="`sparsecc tune` makes one"):
        open_databases(tmp_path / "none.jsonl")

    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        add(Database(tmp_path / "t.jsonl"), layer(), a=1.0)


def test_other_kernels_and_cpus_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    one = layer()
    add(Database(path), one, a=1e-5)
    (record,) = read_records(path)
    assert (record.version, record.cpu) == (kernel_version("spmm"), str(host_cpu()))
    entry = json.loads(path.read_text())

    def with_(**changes: str) -> Path:
        path.write_text(json.dumps(entry | changes) + "\n")
        return path

    assert not Database(with_(version="older")).exact(one.exact_key(), MACHINE)
    assert Database(path, any_version=True).exact(one.exact_key(), MACHINE)
    assert not Database(with_(cpu="GenuineIntel 6.143 Xeon")).similar(one.similar_key(), MACHINE)
    relative = Database(with_(cpu=f"{host_cpu().kind}.999 another of the family"))
    assert not relative.exact(one.exact_key(), MACHINE)
    assert relative.similar(one.similar_key(), MACHINE)


def test_shares_a_step_apart_are_alike_unless_small(tmp_path: Path) -> None:
    database = Database(tmp_path / "t.jsonl")
    for shares, seconds in (("1x1:10 2x1:10 4x1:10", 1e-5), ("1x1:50 2x1:50 4x1:50", 5e-5)):
        database.add(f"spmm 64x64 on 1x4 vectors, 1 taps stored {shares}", "", MACHINE, {"a": seconds})

    def found(shares: str) -> Mapping[str, float]:
        return database.similar(f"spmm 64x64 on 1x4 vectors, 1 taps stored {shares}", MACHINE)

    assert found("1x1:10 2x1:10 4x1:10") == {"a": 1e-5}
    assert found("1x1:45 2x1:50 4x1:55") == {"a": 5e-5}
    assert found("1x1:5 2x1:5 4x1:10") == {}  # half of the work, of blocks of one row
    assert found("1x1:10 2x1:15 4x1:15") == {"a": 1e-5}
    assert found("1x1:40 2x1:50 4x1:50") == {}


def test_keys() -> None:
    assert layer(0).exact_key() == layer(0).exact_key() != layer(1).exact_key()
    assert layer(0, 0.8).similar_key() == layer(1, 0.8).similar_key() != layer(0, 0.9).similar_key()
    matrix = weights()
    texts = {
        SpmmLayer(matrix, 13, 1, 64, 1).text,
        SpmmLayer(matrix, 14, 1, 64, 1).text,
        SpmmLayer(matrix, 13, 9, 64, 1).text,
        SpmmLayer(matrix, 13, 1, 32, 1).text,
        SpmmLayer(matrix, 13, 1, 64, 2).text,
        SpmmLayer(matrix, 13, 1, 64, 1, shiftable=True).text,
        SpmmLayer(matrix, 13, 1, 64, 1, words=True).text,
        RowsLayer(matrix, 1).text,
        RowsLayer(matrix, 2).text,
        RowsLayer(matrix, 1, contiguous=False).text,
        RowsLayer(matrix, 1, bits=8).text,
    }
    assert len(texts) == 11
    scaled = SpmmLayer(matrix * np.float32(2), 13, 1, 64, 1)
    assert scaled.exact_key() == SpmmLayer(matrix, 13, 1, 64, 1).exact_key(), "only zeros matter"
    assert "stored 1x32:100" in RowsLayer(weights(share=0.0), 1, bits=4).similar_key()


FORMS = {"a": 1e-5, "b": 2e-5, "c": 3e-5}


def select(path: Path, of: SpmmLayer) -> tuple[str, str] | None:
    return DatabaseSelector([Database(path)], MACHINE).select("node", of, FORMS, "a")


def test_the_fastest_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    one = layer()
    database = Database(path)
    assert select(path, one) is None, "nothing is known"
    add(database, one, a=3e-5, gone=1e-9)
    assert select(path, one) is None, "nothing to compare with"
    add(database, one, b=1e-5)
    found = select(path, one)
    assert found == (
        "b", "measured fastest of 2 forms, 3.00 times as fast as the cost model's choice"
    )  # fmt: skip
    add(database, one, b=2.95e-5)
    assert select(path, one) == ("a", "measured fastest of 2 forms"), "a difference like noise"


def test_similar_layers_serve_where_the_same_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    add(Database(path), layer(0), a=3e-5, b=1e-5)
    found = select(path, layer(1))
    assert found is not None and found[0] == "b" and "on such a layer" in found[1]
    assert select(path, layer(1, 0.9)) is None
    add(Database(path), layer(1), a=1e-5, b=3e-5)
    found = select(path, layer(1))
    assert found is not None and found[0] == "a" and "on such" not in found[1]


def test_the_shipped_database_is_one() -> None:
    records = read_records(SHIPPED)
    assert os.path.getsize(SHIPPED) < 300_000
    assert all(not record.key and len(record.seconds) > 1 for record in records)
    assert all(
        form.split()[0] in FAMILIES[record.layer.split()[0]] for record in records for form in record.seconds
    )


FAMILIES = {
    "spmm": {"spmm"},
    "dots": {"dots"},
    "rows": {"rows", "lookup", "csr", "nibbles", "groups", "bitmap"},
}


def test_records_are_written_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    add(Database(path), layer(), a=1.23456e-5)
    records = read_records(path)
    write_records(tmp_path / "u.jsonl", records)
    assert (tmp_path / "u.jsonl").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.jsonl", "u.jsonl"]
