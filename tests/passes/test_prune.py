"""prune: golden text, numbers by the oracle, budgets, plans, refusals."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from golden_text import Golden
from pass_graphs import Weights, graph

from sparsecc.axes.groups import Groups
from sparsecc.errors import SparseccError, UsageError, VerificationError
from sparsecc.ir import dump
from sparsecc.oracle import check
from sparsecc.passes import Context, Pipeline
from sparsecc.passes.prune import apply_steps, rank
from sparsecc.passes.prune_budget import Budget, meet, nearest
from sparsecc.passes.prune_plan import PrunePlan, compose, masks_of, prune_with
from sparsecc.passes.prune_ranking import Ranking, Selection, Step

RESIDUAL = """(float[2,3,8,8] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, stem__weight, stem__bias)
    b = Conv<pads=[1,1,1,1]>(a, inner__weight)
    c = BatchNormalization(b, bn__scale, bn__bias, bn__mean, bn__var)
    r = Relu(c)  d = Conv(r, outer__weight)  e = Add(a, d)
    p = GlobalAveragePool(e)  f = Flatten(p)  y = Gemm<transB=1>(f, head__weight, head__bias) }"""
WEIGHTS: Weights = {
    "stem.weight": (16, 3, 3, 3),
    "stem.bias": (16,),
    "inner.weight": (24, 16, 3, 3),
    "bn.scale": (24,),
    "bn.bias": (24,),
    "bn.mean": (24,),
    "bn.var": np.linspace(0.5, 2, 24, dtype=np.float32),
    "outer.weight": (16, 24, 1, 1),
    "head.weight": (5, 16),
    "head.bias": (5,),
}


def residual(width: int = 1) -> ir.Model:
    weights: dict[str, tuple[int, ...] | np.ndarray] = {}
    for name, spec in WEIGHTS.items():
        if isinstance(spec, tuple):
            weights[name] = tuple(size * width if size in (16, 24) else size for size in spec)
        else:
            weights[name] = np.repeat(np.asarray(spec), width)
    return graph(RESIDUAL, weights)


def shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.const_value.shape.numpy())
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }


def test_golden(golden: Golden) -> None:
    model = residual()
    ctx = Pipeline.parse("prune{ratio=0.25 round-to=4}").run(model)
    golden(dump(model) + "\n".join(ctx.reports[0].result.notes) + "\n")


def test_the_least_go() -> None:
    model = residual()
    groups = Groups(model)
    scores = {group.name: np.arange(group.size, 0, -1.0) for group in groups.prunable}
    pruned = apply_steps(ranked := Ranking(groups, scores, Selection()), ranked.by_ratio(0.5))
    assert [group.kept for group in pruned.plan.groups] == [tuple(range(8)), tuple(range(12))]
    assert shapes(pruned.model)["inner.weight"] == (12, 8, 3, 3)
    found = check(ir.to_proto(model), ir.to_proto(pruned.model), pruned.plan.to_json())
    assert found.passed(1e-5), found


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("quantity", ["parameters", "flops", "bytes"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_budgets_are_met(scope: str, quantity: str, share: float) -> None:
    model = residual(width=4)
    ranking = rank(Groups(model), "l2", Selection(scope=scope))
    pruned = apply_steps(ranking, meet(ranking, Budget({quantity: share})))
    reached = getattr(pruned.after, quantity) / getattr(pruned.before, quantity)
    assert abs(reached / share - 1) <= 0.02
    left = sum(int(np.prod(shape)) for shape in shapes(pruned.model).values())
    assert left == pruned.after.parameters
    assert check(ir.to_proto(model), ir.to_proto(pruned.model), pruned.plan.to_json()).passed(1e-5)


def test_several_budgets_all_hold() -> None:
    ranking = rank(Groups(residual()), "l2")
    pruned = apply_steps(ranking, meet(ranking, Budget({"parameters": 0.5, "flops": 0.9})))
    assert 0.49 <= pruned.after.parameters / pruned.before.parameters <= 0.51
    assert pruned.after.flops / pruned.before.flops <= 0.9 * 1.02


def test_a_budget_out_of_reach_names_the_nearest() -> None:
    ranking = rank(Groups(residual()), "l2", Selection(largest=0.25))
    with pytest.raises(VerificationError, match=r"nearest that can be reached is 0\.5\d+ of the parameters"):
        meet(ranking, Budget({"parameters": 0.2}))


def test_the_last_step_is_exchanged_for_smaller_ones() -> None:
    sizes = {0: 50, 1: 40, 2: 10}
    steps = [Step(number, (0,), number) for number in sizes]
    found = nearest(steps, lambda taken: (100 - sum(sizes[step.group] for step in taken)) / 40)
    assert [step.group for step in found] == [0, 2]


def test_rounding_leaves_multiples() -> None:
    groups = Groups(residual())
    for round_to, expected in ((8, {16: 8, 24: 16}), (4, {16: 12, 24: 16}), (1, {16: 11, 24: 16})):
        ranking = rank(groups, "l2", Selection(round_to=round_to))
        pruned = apply_steps(ranking, ranking.by_ratio(0.35))
        found = {group.size: len(group.kept) for group in pruned.plan.groups}
        effective = {
            size: max(step for step in (8, 4, 2, 1) if step <= round_to and step * 4 <= size)
            for size in found
        }
        assert all(kept % effective[size] == 0 for size, kept in found.items()), (round_to, found)
        if round_to == 1:
            assert found == expected


def test_bounds_only_and_skip() -> None:
    groups = Groups(residual())
    stem, inner = (group.name for group in groups.prunable)
    for selection, expected in (
        (Selection(skip=(stem,)), {inner: 12}),
        (Selection(only=("stem*",)), {stem: 8}),
        (Selection(bounds=(("stem*", 0.25), ("*", 0.5))), {stem: 12, inner: 12}),
        (Selection(skip=("channel",)), {}),
    ):
        ranking = rank(groups, "l2", selection)
        pruned = apply_steps(ranking, ranking.by_ratio(0.5))
        assert {group.name: len(group.kept) for group in pruned.plan.groups} == expected


def test_one_ranking_serves_all_ratios() -> None:
    ranking = rank(Groups(residual()), "l2")
    kept = [
        {group.name: set(group.kept) for group in apply_steps(ranking, ranking.by_ratio(ratio)).plan.groups}
        for ratio in (0.25, 0.5, 0.75)
    ]
    for more, less in itertools.pairwise(kept):
        assert all(less[name] < more[name] for name in less)


def test_a_plan_replays_on_other_weights(tmp_path: Path) -> None:
    model = residual()
    ranking = rank(Groups(model), "l2")
    plan = apply_steps(ranking, ranking.by_ratio(0.5)).plan
    plan.save(tmp_path / "plan.json")
    loaded = PrunePlan.load(tmp_path / "plan.json")
    assert loaded == plan
    other = residual()
    for value in other.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(2), name=value.name)
    groups = Groups(other)
    again, replayed = prune_with(groups, masks_of(groups, loaded))
    assert replayed == plan
    assert check(ir.to_proto(other), ir.to_proto(again), replayed.to_json()).passed(1e-5)


def test_two_plans_compose() -> None:
    model = residual()
    groups = Groups(model)
    first = rank(groups, "l2")
    once = apply_steps(first, first.by_ratio(0.25))
    second = rank(Groups(once.model), "l1")
    twice = apply_steps(second, second.by_ratio(0.5))
    both = compose(once.plan, twice.plan, groups)
    assert check(ir.to_proto(model), ir.to_proto(twice.model), both.to_json()).passed(1e-5)


def other_shape(data: dict[str, dict[str, dict[str, list[int]]]]) -> None:
    data["model"]["initializers"]["stem.bias"] = [17]


def half_a_group(data: dict[str, dict[str, dict[str, list[int]]]]) -> None:
    del data["kept"]["bn.mean"]


def wrong_format(data: dict[str, object]) -> None:
    data["format"] = 2


def lost_part(data: dict[str, object]) -> None:
    del data["kept"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (other_shape, UsageError, "hash"),
        (half_a_group, VerificationError, "keeps of bn.mean needs other slices"),
        (wrong_format, UsageError, "format 2"),
        (lost_part, UsageError, "no pruning plan"),
    ],
)
def test_damaged_plans(
    change: Callable[[object], None], error: type[SparseccError], message: str, tmp_path: Path
) -> None:
    groups = Groups(residual())
    ranking = rank(groups, "l2")
    data = apply_steps(ranking, ranking.by_ratio(0.5)).plan.to_json()
    data = json.loads(json.dumps(data))
    change(data)
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(error, match=message):
        masks_of(groups, PrunePlan.load(tmp_path / "plan.json"))


def test_a_plan_of_another_model_names_the_difference() -> None:
    ranking = rank(Groups(residual()), "l2")
    plan = apply_steps(ranking, ranking.by_ratio(0.5)).plan
    wider = graph(
        RESIDUAL,
        {**WEIGHTS, "head.weight": (6, 16), "head.bias": (6,)},
    )
    with pytest.raises(VerificationError, match=r"head.weight has the shape \[5, 16\]; here it is \[6, 16\]"):
        masks_of(Groups(wider), plan)


def test_a_plan_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    for path, message in ((tmp_path / "none.json", "cannot be read"), (tmp_path / "a.json", "is not JSON")):
        with pytest.raises(UsageError, match=message):
            PrunePlan.load(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("prune{ratio=1.0}", "at least 0 and under 1"),
        ("prune{ratio=0.5 flops=0.5}", "not both"),
        ("prune{flops=1.5}", "over 0 and under 1"),
        ("prune{criterion=guess}", "guess"),
        ("prune{scope=regional}", "regional"),
        ("prune{largest=1.0}", "at least 0 and under 1"),
        ("prune{round-to=0}", "at least 1"),
        ("prune{skip=tail*}", "no group has a name or kind like 'tail\\*'"),
    ],
)
def test_options_that_mean_nothing(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(spec).run(residual())


def test_nothing_to_prune_says_why() -> None:
    model = graph("(float[1,4] x) => (float y) { y = MatMul(x, w) }", {"w": (4, 3)})
    with pytest.raises(
        VerificationError, match="nothing of this model can be pruned: it is an axis of a graph"
    ):
        Pipeline.parse("prune").run(model, Context())


def test_an_op_without_a_rule_is_pruned_around() -> None:
    text = """(float[4,4] x) => (float y) {
        a = MatMul(x, w0)  b = Relu(a)  c = MatMul(b, w1)  d = Det(c)  e = Add(c, d)
        f = MatMul(e, w2)  g = Relu(f)  y = MatMul(g, w3) }"""
    model = graph(text, {"w0": (4, 12), "w1": (12, 4), "w2": (4, 20), "w3": (20, 3)})
    original = ir.to_proto(model)
    groups = Groups(model)
    frozen = [group.frozen.reason for group in groups if group.frozen is not None]
    assert any("Det" in reason or "det" in reason for reason in frozen), frozen
    ranking = rank(groups, "l2")
    pruned = apply_steps(ranking, ranking.by_ratio(0.5))
    assert shapes(pruned.model) == {"w0": (4, 6), "w1": (6, 4), "w2": (4, 10), "w3": (10, 3)}
    assert check(original, ir.to_proto(pruned.model), pruned.plan.to_json()).passed(1e-5)


def test_shapes_that_depend_on_data_are_not_guessed() -> None:
    """Rows are chosen by the data: their number shows in Shape, so nothing computed from it is constant."""
    text = """(float[6,8] x) => (float y) {
        h = MatMul(x, w0)  s = ReduceSum<keepdims=0>(h, last)  p = Greater(s, zero)
        n = NonZero(p)  i = Squeeze(n, first)
        g = Gather(h, i)  c = Shape(g)  d = Concat<axis=0>(c, minus)  e = Slice(d, one, four)
        r = Reshape(g, heads)  t = ReduceSum(r, first)  u = Reshape(t, flat)  v = MatMul(u, w1)
        k = Relu(v)  y = MatMul(k, w2) }"""
    weights: Weights = {"w0": (8, 12), "w1": (12, 20), "w2": (20, 3), "zero": 0.0}
    sizes = {"last": [1], "first": [0], "minus": [-1], "one": [1], "four": [3], "heads": [-1, 3, 4]}
    weights = {**weights, **sizes, "flat": [1, 12]}
    model = graph(text, weights)
    groups = Groups(model)
    assert [group.name for group in groups.prunable] == ["w1.features"]
    assert any("depend on data" in group.frozen.reason for group in groups if group.frozen is not None)
    ranking = rank(groups, "l2")
    pruned = apply_steps(ranking, ranking.by_ratio(0.5))
    assert check(ir.to_proto(model), ir.to_proto(pruned.model), pruned.plan.to_json()).passed(1e-5)
