"""--permute on `sparsify` and `compile`."""

from __future__ import annotations

import json
from pathlib import Path

from cli_outcome import Cli


def test_sparsify_reorders_first(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "sparse.onnx"
    found = cli("sparsify", network, "-o", out, "--pattern", "4x1", "--sparsity", "0.5", "--permute")
    assert found.code == 0, found.err
    assert "are in another order" in found.out


def test_compile_puts_the_pass_in_front(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.scc"
    found = cli("compile", network, "-o", out, "--pattern", "2:4", "--permute", "--no-measure")
    assert found.code == 0, found.err
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert "permute,sparsify{pattern=2:4}" in json.dumps(manifest)


def test_it_needs_a_pattern_with_an_order(cli: Cli, network: Path, tmp_path: Path) -> None:
    found = cli("compile", network, "-o", tmp_path / "m.scc", "--permute")
    assert found.code == 2 and "need --pattern" in found.sentence()
    found = cli("sparsify", network, "-o", tmp_path / "s.onnx", "--pattern", "unstructured", "--permute")
    assert found.code == 2 and "the same in every order" in found.sentence()
