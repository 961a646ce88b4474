"""`sparsecc tune` as a user meets it: help, the table, going on after Ctrl-C, its database in `compile`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_outcome import Cli

from sparsecc.measurement import LocalRunner, Measured, Trial
from sparsecc.tuning.database import read_records

SPARSITY = ("--pattern", "4x1", "--sparsity", "0.75")


@pytest.fixture(autouse=True)
def own_cache_of_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.tuning.database.default_path", lambda: tmp_path / "default.jsonl")


def test_help_suffices(cli: Cli) -> None:
    found = cli("tune", "--help")
    assert found.code == 0
    for word in ("--database", "--trials", "--budget", "Ctrl-C", "sparsecc compile", "examples:"):
        assert word in found.out


def test_tune_and_compile(cli: Cli, network: Path, tmp_path: Path) -> None:
    database = tmp_path / "t.jsonl"
    found = cli("tune", network, *SPARSITY, "--database", database, "--trials", 3)
    assert found.code == 0, found.err
    assert "measure variant 1 of 2" in found.err
    head, *rows = found.out.splitlines()
    assert " ".join(head.split()) == "layer shape pattern fastest form time instead of gain forms"
    assert [row.split()[0] for row in rows[:3]] == ["w1", "w2", "w3"]
    assert f"measurements added to {database}" in found.out
    assert "as the cost model chooses" in found.out
    again = cli("tune", network, *SPARSITY, "--database", database, "--trials", 3, "--quiet")
    assert again.code == 0 and again.out == ""
    out = tmp_path / "m.scc"
    options = ("-o", out, "--force", "--no-measure", *SPARSITY)
    assert cli("compile", network, *options, "--database", database).code == 0
    assert "measured fastest of 3 forms" in (out / "report.html").read_text(encoding="utf-8")
    assert cli("compile", network, *options, "--no-database").code == 0
    assert "measured fastest" not in (out / "report.html").read_text(encoding="utf-8")


def test_ctrl_c_keeps_what_was_measured(
    cli: Cli, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "t.jsonl"
    really, calls = LocalRunner.measure, 0

    def measure(self: LocalRunner, trials: Sequence[Trial], inputs: Mapping[str, Any]) -> list[Measured]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return really(self, trials, inputs)

    monkeypatch.setattr(LocalRunner, "measure", measure)
    words = ("tune", network, *SPARSITY, "--database", database, "--trials", 4)
    stopped = cli(*words)
    assert stopped.code == 130
    assert "the same command goes on from there" in stopped.err
    before = len(read_records(database))
    assert before == 6, "three layers, two forms"
    assert cli(*words).code == 0
    assert len(read_records(database)) > before


def test_no_time(cli: Cli, network: Path, tmp_path: Path) -> None:
    found = cli("tune", network, *SPARSITY, "--database", tmp_path / "t.jsonl", "--budget", 0)
    assert found.code == 0 and "forms are left to measure" in found.out


def test_a_network_without_layers(cli: Cli, tmp_path: Path) -> None:
    from cli_models import model, save
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    path = save(model([helper.make_node("Relu", ["x"], ["y"], "relu")], [x], [y], []), tmp_path / "r.onnx")
    found = cli("tune", path, "--database", tmp_path / "t.jsonl")
    assert found.code == 0 and "no layer" in found.out


def test_wrong_use_is_a_sentence(cli: Cli, network: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not a record\n")
    assert "line 1: expected a measurement" in cli("tune", network, "--database", bad).sentence()
    assert "line 1" in cli("compile", network, "-o", tmp_path / "m.scc", "--database", bad).sentence()
    missing = cli("compile", network, "-o", tmp_path / "m.scc", "--database", tmp_path / "none.jsonl")
    assert missing.code == 2 and "there is no database" in missing.sentence()
    assert "at least 2 forms" in cli("tune", network, "--trials", 1).sentence()
    assert cli("compile", network, "--database", bad, "--no-database").code == 2


def test_rpc_without_a_server(cli: Cli, network: Path, tmp_path: Path) -> None:
    found = cli("tune", network, "--rpc", "board", "--database", tmp_path / "t.jsonl")
    assert found.code == 2 and "expected HOST:PORT of an RPC server, found 'board'" in found.err
    assert cli("tune", network, "--rpc-key", "board").code == 2
    assert not (tmp_path / "t.jsonl").exists()
