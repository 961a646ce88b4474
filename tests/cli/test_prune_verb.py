"""`sparsecc prune`: what goes, budgets, plans, data, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import cli_models
import numpy as np
import onnx
import pytest
from cli_outcome import Cli, reference
from onnx import TensorProto, helper, numpy_helper

from sparsecc import pruner
from sparsecc.errors import VerificationError
from sparsecc.oracle import check


def weights(path: Path) -> dict[str, np.ndarray]:
    """Initializers by name."""
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the initializers by name."""
    return {name: array.shape for name, array in weights(path).items()}


def test_ratio(cli: Cli, network: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "smaller.onnx", tmp_path / "plan.json"
    found = cli("prune", network, "-o", out, "--ratio", "0.25", "--save-plan", plan)
    assert found.code == 0, found.err
    assert shapes(out) == {
        "w1": (24, 8, 3, 3), "b1": (24,), "w2": (48, 24, 1, 1), "w3": (10, 48), "b3": (10,),
    }  # fmt: skip
    lines = [line.split() for line in found.out.splitlines()]
    assert lines[1] == ["w1.channels", "channel", "32", "24", "25.0%"]
    assert ["parameters", "5,034", "3,394", "67.4%"] in lines
    assert "checked: equals the original with these slices zeroed" in found.out
    values = json.loads(plan.read_text())
    result = check(onnx.load(network), onnx.load(out), values, precision="float64")
    assert result.passed(1e-10), result
    before, after = weights(network)["w1"], weights(out)["w1"]
    np.testing.assert_array_equal(after, before[values["kept"]["w1"]["0"]])
    assert reference(out, np.ones((1, 8, 12, 12), np.float32)).shape == (1, 10)


def test_a_plan_replays_on_other_weights(cli: Cli, network: Path, tmp_path: Path) -> None:
    plan, other = tmp_path / "plan.json", tmp_path / "other.onnx"
    assert cli("prune", network, "-o", tmp_path / "a.onnx", "--save-plan", plan).code == 0
    proto = onnx.load(network)
    for item in proto.graph.initializer:
        item.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(item), item.name))
    cli_models.save(proto, other)
    found = cli("prune", other, "-o", tmp_path / "b.onnx", "--plan", plan)
    assert found.code == 0, found.err
    first, second = weights(tmp_path / "a.onnx"), weights(tmp_path / "b.onnx")
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], -array)


def test_targets_and_choices(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "smaller.onnx"
    found = cli("prune", network, "-o", out, "--flops", "0.6", "--bound", "w1.channels=0")
    assert found.code == 0, found.err
    assert shapes(out)["w1"] == (32, 8, 3, 3)
    left = 2 * (144 * 32 * (72 + shapes(out)["w2"][0]) + 10 * shapes(out)["w2"][0]) / 1_254_656
    assert left == pytest.approx(0.6, abs=0.02 * 0.6)
    found = cli("prune", network, "-o", out, "-f", "--only", "w2.*", "--round-to", "16", "--scope", "global")
    assert found.code == 0, found.err
    assert (shapes(out)["w1"][0], shapes(out)["w2"][0] % 16) == (32, 0)
    found = cli("prune", network, "-o", out, "-f", "--skip", "channel")
    assert found.code == 0, found.err
    assert shapes(out) == shapes(network)


def test_several_ratios(cli: Cli, network: Path, tmp_path: Path) -> None:
    found = cli("prune", network, "-o", tmp_path / "small.onnx", "--ratios", "0.25,0.5")
    assert found.code == 0, found.err
    assert shapes(tmp_path / "small-0.25.onnx")["w1"] == (24, 8, 3, 3)
    assert shapes(tmp_path / "small-0.5.onnx")["w1"] == (16, 8, 3, 3)


def test_reconstruction(cli: Cli, network: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "batch.npz", x=x)
    words = ("--ratio", "0.25", "--reconstruct", "id", "--regress", "--data", tmp_path / "batch.npz")
    assert cli("prune", network, "-o", tmp_path / "plain.onnx", "--ratio", "0.25").code == 0
    found = cli("prune", network, "-o", tmp_path / "fitted.onnx", *words)
    assert found.code == 0, found.err
    assert "checked: equals the original" in found.out
    dense = reference(network, x)
    errors = [np.abs(reference(tmp_path / f"{name}.onnx", x) - dense).mean() for name in ("plain", "fitted")]
    assert errors[1] < 0.5 * errors[0]


def test_data(cli: Cli, network: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    files: list[object] = []
    for number in range(2):
        path = tmp_path / f"batch{number}.npz"
        np.savez(
            path, x=generator.standard_normal((1, 8, 12, 12)).astype(np.float32), target=np.array([number])
        )
        files += ["--data", path]
    found = cli("prune", network, "-o", tmp_path / "a.onnx", "--criterion", "taylor", *files)
    assert found.code == 0, found.err
    np.savez(tmp_path / "batch1.npz", x=np.zeros((1, 8, 12, 12), np.float32))
    found = cli("prune", network, "-o", tmp_path / "b.onnx", "--criterion", "taylor", *files)
    assert found.code == 2
    assert "1 of 2 files of --data have a target" in found.sentence()
    (tmp_path / "batch1.npz").write_bytes(b"no archive")
    found = cli("prune", network, "-o", tmp_path / "b.onnx", "--criterion", "taylor", *files)
    assert found.code == 2
    assert "batch1.npz is no .npz file" in found.sentence()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--ratio", "1.5"), 2, "1.5"),
        (("--ratio", "0.5", "--flops", "0.5"), 2, "not both"),
        (("--flops", "2"), 2, "over 0 and under 1"),
        (("--latency", "0.5", "--bytes", "0.5"), 2, "only target"),
        (("--bound", "w1*=2"), 2, "share from 0 to 1"),
        (("--bound", "w1*=0.5", "--bound", "w1*=0.6"), 2, "gives w1* twice"),
        (("--ratios", "0.3,much"), 2, "expected numbers"),
        (("--ratios", "0.3", "--flops", "0.5"), 2, "contradict"),
        (("--regress",), 2, "give --reconstruct too"),
        (("--reconstruct", "id"), 2, "data"),
        (("--bound", "w1*=much"), 2, "expected NAME=SHARE"),
        (("--criterion", "luck"), 2, "there is no criterion 'luck'"),
        (("--skip", "w9"), 2, "w9"),
        (("--plan", "absent.json"), 2, "absent.json"),
        (("--plan", "plan.json", "--ratio", "0.5"), 2, "--ratio beside it"),
        (("--plan", "plan.json", "--round-to", "8"), 2, "--round-to beside it"),
        (("--iterations", "0"), 2, "at least one iteration"),
        (("--parameters", "0.0001"), 4, "nearest"),
    ],
)
def test_refused(
    cli: Cli, network: Path, tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    found = cli("prune", network, "-o", tmp_path / "out.onnx", *words)
    assert says in found.sentence()
    assert found.code == code
    assert list(tmp_path.iterdir()) == []


def test_nothing_can_be_pruned(cli: Cli, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "only")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 4], [1.0] * 12)
    path = cli_models.save(cli_models.model(nodes, [x], [y], [weight]), tmp_path / "one.onnx")
    found = cli("prune", path, "-o", tmp_path / "out.onnx")
    assert found.code == 4
    assert "nothing of this model can be pruned" in found.sentence()
    assert not (tmp_path / "out.onnx").exists()


def test_a_result_that_fails_its_check_is_not_written(
    cli: Cli, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise VerificationError("the outputs differ")

    monkeypatch.setattr(pruner, "verify", fail)
    found = cli("prune", network, "-o", tmp_path / "out.onnx")
    assert (found.code, found.sentence()) == (4, "the outputs differ")
    assert list(tmp_path.iterdir()) == []
    found = cli("prune", network, "-o", tmp_path / "out.onnx", "--no-verify")
    assert found.code == 0
    assert "not checked against the original" in found.out
