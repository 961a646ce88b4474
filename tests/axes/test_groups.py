"""Groups: their tables, that one index of each can go, that no slice of it may stay, and what it costs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from golden_text import Golden
from group_models import from_text, one_removed, probe, residual

import sparsecc
from sparsecc.axes.groups import Group, Groups
from sparsecc.axes.kinds import Kind
from sparsecc.axes.rewrite import Rewriter, taken
from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir import evaluate
from sparsecc.ir.edit import replace_constant
from sparsecc.oracle import check

PROBES = [
    "rotary-half",
    "encoder-layers",
    "group-norm",
    "depthwise-separable",
    "inception",
    "dense-block",
    "channel-shuffle",
    "tied-embedding",
    "multihead-attention",
    "gated-linear-unit",
    "flatten-linear",
    "roll",
]


def table(groups: Groups) -> str:
    """One line per group, and one per parameter axis with the positions of its first index."""
    lines: list[str] = []
    for group in groups:
        cost = f"{group.cost.parameters:g} parameters, {group.cost.flops:g} FLOPs, {group.cost.bytes:g} bytes"
        lines.append(f"{group.name}: {group.size} x {group.kind.value}, {group.exactness}, {cost}")
        if group.frozen is not None:
            lines.append(f"    {group.frozen.reason} ({group.frozen.code}; {group.frozen.where})")
        lines += [f"    {axis.parameter}[{axis.axis}] {axis.positions(0)}" for axis in group.axes]
        lines += [f"    ~ {norm}" for norm in group.norms]
    total = groups.total
    lines.append(f"{total.parameters:g} parameters, {total.flops:g} FLOPs, {total.bytes:g} bytes")
    lines.append(f"{groups.prunable_share:.4f} prunable")
    return "\n".join(lines) + "\n"


def without(groups: Groups, group: Group, seed: int = 0) -> tuple[ir.Model, Rewriter]:
    """The model without one index of a group."""
    rewriter = Rewriter(groups.analysis, group.mask_of(one_removed(group, seed)))
    return rewriter.run(), rewriter


def test_table_of_a_residual_network(golden: Golden) -> None:
    golden(table(residual()))


@pytest.mark.parametrize("name", ["rotary-half", "encoder-layers", "group-norm", "tied-embedding"])
def test_table(name: str, golden: Golden) -> None:
    golden(table(probe(name)[0]))


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("rotary-half", {"query.kv_heads": Kind.KEY_VALUE_GROUP, "query.head_dim": Kind.HEAD_DIMENSION}),
        ("rotary-half", {"query.queries_per_kv_head": Kind.QUERY_GROUP}),
        ("rotary-half", {"value.v_head_dim": Kind.HEAD_DIMENSION}),
        ("encoder-layers", {"enter.embedding": Kind.EMBEDDING, "before.linear1.ffn": Kind.FEED_FORWARD}),
        ("encoder-layers", {"before.self_attn.in_proj.heads": Kind.HEAD}),
        ("group-norm", {"first.0.groups": Kind.CHANNEL_GROUP}),
        ("group-norm", {"first.0.channels_per_group": Kind.CHANNEL_IN_GROUP}),
        ("tied-embedding", {"embed.embedding": Kind.EMBEDDING, "hidden.ffn": Kind.FEED_FORWARD}),
        ("gated-linear-unit", {"packed.features": Kind.FEATURE}),
        ("gru", {"recurrent.weight_ih_l0.hidden_state": Kind.HIDDEN_STATE}),
        ("einsum-attention", {"query.heads": Kind.HEAD, "query.head_dim": Kind.HEAD_DIMENSION}),
        ("soft-experts", {"up.ffn": Kind.FEED_FORWARD, "enter.features": Kind.FEATURE}),
    ],
)
def test_names_and_kinds(name: str, kinds: dict[str, Kind]) -> None:
    groups, _ = probe(name)
    assert {group: groups[group].kind for group in kinds} == kinds


@pytest.mark.parametrize("name", PROBES)
def test_names_are_unique(name: str) -> None:
    names = [group.name for group in probe(name)[0]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", PROBES)
def test_one_index_of_each_group_can_go(name: str) -> None:
    groups, inputs = probe(name)
    original = ir.to_proto(groups.model)
    assert groups.prunable
    for group in groups.prunable:
        moved = 0.0
        for seed in range(8):  # a unit that is dead on these inputs shows nothing
            pruned, rewriter = without(groups, group, seed)
            plan = {"format": 1, "kept": rewriter.kept(), "normalizations": rewriter.normalizations()}
            result = check(original, ir.to_proto(pruned), plan, inputs, precision="float64")
            # Constants that follow a shape stay as they were rounded to fp32; all else is computed in fp64.
            assert result.passed(2e-7, vacuous=True), (group.name, result)
            moved = max(moved, result.moved)
            if moved:
                break
        assert moved, group.name


def without_slice(groups: Groups, group: Group, parameter: str, axis: int) -> ir.Model:
    """One index of a group is gone everywhere but from one axis of one parameter, which stays whole."""
    pruned, rewriter = without(groups, group)
    value = next(value for value in groups.analysis.parameters if value.name == parameter)
    assert value.const_value is not None
    array = value.const_value.numpy()
    kept = rewriter.kept()[parameter]
    masks = [np.ones(size, bool) for size in array.shape]
    for number, positions in kept.items():
        if int(number) != axis:
            masks[int(number)][:] = False
            masks[int(number)][positions] = True
    replace_constant(pruned.graph.initializers[parameter], taken(array, masks))
    return pruned


@pytest.mark.parametrize("name", PROBES)
def test_no_slice_of_a_group_may_stay(name: str) -> None:
    """A model in which one slice stayed does not run, or computes something else."""
    groups, inputs = probe(name)
    for group in groups.prunable:
        pruned, _ = without(groups, group)
        expected = evaluate(pruned, inputs)
        for axis in group.axes:
            broken = without_slice(groups, group, axis.parameter, axis.axis)
            try:
                found = evaluate(broken, inputs)
            except VerificationError:
                continue
            differs = any(
                found[key].shape != array.shape
                or not np.allclose(found[key], array, rtol=1e-3, atol=1e-3 * np.abs(array).max())
                for key, array in expected.items()
            )
            assert differs, (group.name, axis.parameter, axis.axis)


@pytest.mark.parametrize("name", ["rotary-half", "encoder-layers", "group-norm", "inception", "dense-block"])
def test_the_cost_of_an_index_is_what_goes_with_it(name: str) -> None:
    groups, inputs = probe(name)
    for group in groups.prunable:
        if len(group.dims) > 1:
            continue
        pruned, _ = without(groups, group)
        names = {value.name for value in groups.analysis.parameters}
        tensors = [value.const_value for name, value in pruned.graph.initializers.items() if name in names]
        after = sum(tensor.size for tensor in tensors if tensor is not None)
        assert groups.total.parameters - after == group.cost.parameters
        assert groups.total.bytes - 4 * after == group.cost.bytes
        flops = Groups(pruned, inputs).total.flops
        assert groups.total.flops - flops == pytest.approx(group.cost.flops, rel=1e-12)


def test_total_counts_every_parameter_and_multiply_add() -> None:
    groups = residual()
    assert groups.total.parameters == 6 * 27 + 6 + 5 * 54 + 4 * 5 + 6 * 45 + 24 + 4
    assert groups.total.bytes == 4 * groups.total.parameters
    assert groups.total.flops == 2 * (64 * (6 * 27 + 5 * 54 + 6 * 45) + 24)


def test_order_and_lookup() -> None:
    groups = residual()
    assert [group.frozen is not None for group in groups] == sorted(g.frozen is not None for g in groups)
    assert groups["block.conv1.channels"] is next(g for g in groups if g.name == "block.conv1.channels")
    assert next(iter(groups)) is groups[0]
    with pytest.raises(UsageError, match="no group 'nowhere'"):
        groups["nowhere"]


def test_groups_of_the_same_scope_are_named_after_their_first_layers() -> None:
    text = """(float[1,4] x) => (float y) {
        a = Gemm<transB=1>(x, net__0__weight) r = Relu(a) b = Gemm<transB=1>(r, net__1__weight)
        s = Relu(b) y = Gemm<transB=1>(s, net__2__weight) }"""
    groups = Groups(from_text(text, {"net.0.weight": (5, 4), "net.1.weight": (6, 5), "net.2.weight": (2, 6)}))
    assert [group.name for group in groups.prunable] == ["net.0.features", "net.1.features"]


def test_names_without_dots() -> None:
    text = """(float[1,4] x) => (float y) {
        a = Gemm<transB=1>(x, gpu_0_fc1_w_0, fc1_b_0) r = Relu(a) y = Gemm<transB=1>(r, fc2_w_0) }"""
    groups = Groups(from_text(text, {"gpu_0_fc1_w_0": (5, 4), "fc1_b_0": (5,), "fc2_w_0": (2, 5)}))
    assert [group.name for group in groups.prunable] == ["gpu_0_fc1.features"]


def test_nothing_prunable() -> None:
    groups = Groups(from_text("(float[2,3] x) => (float y) { y = MatMul(x, w) }", {"w": (3, 4)}))
    assert groups.prunable == []
    assert groups.prunable_share == 0
    assert {group.frozen.code for group in groups if group.frozen} == {"graph-input", "graph-output"}


def test_public_function() -> None:
    model = residual().model
    assert table(sparsecc.groups(model)) == table(Groups(model))
    with pytest.raises(UsageError, match="the model has the inputs x"):
        sparsecc.groups(model, {"z": np.zeros((1, 3, 8, 8), np.float32)})
