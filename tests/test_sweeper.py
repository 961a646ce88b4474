"""`sweep`: the grid, its cells against the functions they are made of, resumption, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import sparsecc
from sparsecc import sweeper
from sparsecc.errors import UsageError
from sparsecc.latency import PredictedLatency
from sparsecc.sweeper import SweepResult, draw, sweep

ELSEWHERE = "arm64-linux"
"""A target that machines with x86 do not run: the cost model prices it."""


@pytest.fixture(scope="module")
def model() -> ir.Model:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 10))
    return sparsecc.capture(module.eval(), (torch.zeros(16, 30),))


def data(seed: int, count: int = 4) -> sparsecc.Calibration:
    rng = np.random.default_rng(seed)
    return sparsecc.Calibration(
        [{"input": rng.standard_normal((16, 30)).astype(np.float32)} for _ in range(count)]
    )


def swept(model: ir.Model, folder: Path, **options: object) -> SweepResult:
    given = {
        "task": "agreement",
        "data": data(1),
        "calibration": data(2),
        "patterns": ["unstructured", "4x1", "2:4"],
        "sparsities": [0.5, 0.75],
        "methods": ["magnitude", "alps"],
        "min_size": 0,
        "target": ELSEWHERE,
        "backend": "threading",
    }
    return sweep(model, folder, **{**given, **options})  # pyright: ignore[reportArgumentType]


def test_cells_are_what_sparsify_and_evaluate_make(model: ir.Model, tmp_path: Path) -> None:
    result = swept(model, tmp_path)
    assert result.dense == 100 and not result.measured
    assert len(result.cells) == 2 * (2 + 2 + 1)
    clock = PredictedLatency(model, ELSEWHERE)
    for cell in result.cells:
        assert cell.zeros == pytest.approx(cell.sparsity, abs=0.02)
        share = None if ":" in cell.pattern else cell.sparsity
        calibration = data(2) if cell.method == "alps" else None
        sparse = sparsecc.sparsify(
            model, cell.pattern, share, min_size=0, method=cell.method, calibration=calibration
        )
        score = sparsecc.evaluate(sparse.model, "agreement", data(1), reference=model).score
        assert (cell.score, cell.low, cell.high) == (score.value, score.low, score.high)
        plain = sparsecc.sparsify(model, cell.pattern, share, min_size=0).model
        assert cell.latency == pytest.approx(clock.share(plain))
    draw(result, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_processes_find_the_same(model: ir.Model, tmp_path: Path) -> None:
    options = {"patterns": ["4x1"], "methods": ["magnitude"]}
    alone = swept(model, tmp_path / "a", **options)
    assert swept(model, tmp_path / "b", **options, backend="loky", jobs=2).cells == alone.cells


def test_finished_cells_are_not_made_again(model: ir.Model, tmp_path: Path) -> None:
    first = swept(model, tmp_path)
    path = tmp_path / "4x1-75-percent-alps.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**kept, "score": 12.5}), encoding="utf-8")
    (tmp_path / "4x1-50-percent-alps.json").unlink()
    again = swept(model, tmp_path)
    by_name = {cell.name: cell for cell in again.cells}
    assert by_name["4x1 75 % alps"].score == 12.5
    assert by_name["4x1 50 % alps"] in first.cells


def test_another_sweep_is_refused_in_the_folder(model: ir.Model, tmp_path: Path) -> None:
    options = {"patterns": ["4x1"], "methods": ["magnitude"]}
    swept(model, tmp_path, **options)
    swept(model, tmp_path, **{**options, "sparsities": [0.9]})  # a larger grid is the same sweep
    with pytest.raises(UsageError, match="another model, data or options"):
        swept(model, tmp_path, **options, data=data(9))


def test_a_cell_that_cannot_be_made_carries_its_reason(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UsageError("not today")

    monkeypatch.setattr(sweeper, "sparsify", refuse)
    (cell,) = swept(model, tmp_path, patterns=["4x1"], sparsities=[0.5], methods=["alps"]).cells
    assert cell.error == "not today" and np.isnan(cell.score)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["hope"]}, "the method is one of magnitude"),
        ({"patterns": []}, "the grid is empty"),
        ({"patterns": ["9y9"]}, "9y9"),
        ({"sparsities": [1.5]}, "under 1"),
        ({"jobs": 0}, "at least one cell"),
        ({"backend": "pigeons"}, "pigeons"),
        ({"calibration": None}, "need calibration data"),
        ({"task": "beauty"}, "the task is one of"),
        ({"calibration": sparsecc.Calibration([{"input": np.full((16, 30), np.nan, np.float32)}])}, "NaN"),
    ],
)
def test_bad_input_is_named(
    model: ir.Model, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        swept(model, tmp_path, **options)
