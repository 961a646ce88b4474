"""Explanations: chains of ops to every slice of a group, and from the place that froze one."""

from __future__ import annotations

import json

import pytest
from group_models import from_text, probe

from sparsecc.axes.explain import explain, find_group, in_graph_order
from sparsecc.axes.groups import Groups
from sparsecc.errors import UsageError

TWO = """(float[1,3,8,8] x) => (float y) {
    h1 = Conv(x, conv1__weight) h2 = Relu(h1) h3 = Conv(h2, conv2__weight) y = Sigmoid(h3) }"""
WEIGHTS = {"conv1.weight": (5, 3, 3, 3), "conv2.weight": (4, 5, 3, 3)}


def two() -> Groups:
    """Two convolutions."""
    return Groups(from_text(TWO, WEIGHTS))


def test_chain_between_two_convolutions() -> None:
    found = explain(two(), "conv1.channels")
    assert [chain.text() for chain in found.chains] == [
        "conv1.weight[0]",
        "conv1.weight[0] -Conv node_h1-> h1[1] -Relu-> h2[1] -Conv node_h3-> conv2.weight[1]",
    ]
    assert found.freezing is None
    assert found.norms == ()


def test_text() -> None:
    assert explain(two(), "conv1.channels").text().splitlines() == [
        "conv1.channels: channel, 5 indices, exact",
        "one index takes these slices with it:",
        "  conv1.weight[0], 1 position",
        "  conv2.weight[1], 1 position",
        "    conv1.weight[0] -Conv node_h1-> h1[1] -Relu-> h2[1] -Conv node_h3-> conv2.weight[1]",
    ]


@pytest.mark.parametrize(
    ("axis", "reason", "chain"),
    [
        ("conv1.weight[1]", "it is an axis of a graph input", "x[1] -Conv node_h1-> conv1.weight[1]"),
        ("conv1.weight[2]", "it is a spatial axis (Conv node_h1)", "conv1.weight[2]"),
        (
            "conv2.weight[0]",
            "it is an axis of the graph output y",
            "y[1] -Sigmoid-> h3[1] -Conv node_h3-> conv2.weight[0]",
        ),
    ],
)
def test_what_froze_a_group(axis: str, reason: str, chain: str) -> None:
    found = explain(two(), axis)
    assert found.freezing is not None
    assert found.freezing.text() == chain
    lines = found.text().splitlines()
    assert lines[1:4] == [f"frozen because {reason}", f"  {chain}", "it slices:"]


def test_a_softmax_freezes_what_reaches_it() -> None:
    text = """(float[2,3] x) => (float y) {
        a = MatMul(x, first) r = Relu(a) s = Softmax(r) y = MatMul(s, second) }"""
    found = explain(Groups(from_text(text, {"first": (3, 6), "second": (6, 4)})), "first[1]")
    assert found.group.frozen is not None
    assert found.group.frozen.code == "softmax"
    assert found.freezing is not None
    assert found.freezing.text() == "r[1] -Relu-> a[1] -MatMul node_a-> first[1]"


def test_every_slice_is_reached_and_every_step_holds_the_group() -> None:
    for name in ("rotary-half", "channel-shuffle", "encoder-layers", "gru"):
        groups, _ = probe(name)
        values = {value.name: value for value in groups.analysis.axes}
        for group in groups.prunable:
            found = explain(groups, group.name)
            assert [chain.end for chain in found.chains] == [(a.parameter, a.axis) for a in group.axes]
            for chain in found.chains:
                assert chain.start == found.chains[0].start
                nodes = {node.name: node for node in groups.model.graph}
                place = chain.start
                for step in chain.steps:
                    node = nodes[step.name]
                    touched = {value.name for value in (*node.inputs, *node.outputs) if value is not None}
                    assert {place[0], step.place[0]} <= touched
                    place = step.place
                    assert place[1] < len(groups.analysis.axes[values[place[0]]])


def test_norms() -> None:
    groups, _ = probe("encoder-layers")
    found = explain(groups, "enter.embedding")
    assert found.norms
    assert all(norm.startswith("LayerNormalization ") for norm in found.norms)
    assert "statistics run over fewer entries" in found.text()


def test_long_chains_are_cut_in_the_middle() -> None:
    body = " ".join(f"h{n} = Relu(h{n - 1})" for n in range(1, 31))
    text = f"(float[1,3] x) => (float y) {{ h0 = MatMul(x, a__weight) {body} y = MatMul(h30, b__weight) }}"
    groups = Groups(from_text(text, {"a.weight": (3, 5), "b.weight": (5, 2)}))
    chain = explain(groups, "a.features").chains[1]
    assert len(chain.steps) == 32
    assert chain.text(4) == (
        "a.weight[1] -MatMul node_h0-> h0[1] -Relu-> h1[1] … 28 more ops … -Relu-> h30[1] "
        "-MatMul node_y-> b.weight[0]"
    )


def test_json_has_chains_in_full() -> None:
    values = json.loads(json.dumps(explain(two(), "conv1.channels").to_json()))
    assert values["chains"][1]["steps"] == [
        {"op": "Conv", "node": "node_h1", "to": "h1[1]"},
        {"op": "Relu", "node": "node_h2", "to": "h2[1]"},
        {"op": "Conv", "node": "node_h3", "to": "conv2.weight[1]"},
    ]
    assert values["freezing"] is None


def test_finding_groups() -> None:
    groups, _ = probe("rotary-half")
    assert find_group(groups, "value.v_head_dim").name == "value.v_head_dim"
    with pytest.raises(UsageError, match=r"several groups, name one of them: .*query\.kv_heads"):
        find_group(groups, "query.weight[0]")
    with pytest.raises(UsageError, match=r"did you mean value\.v_head_dim"):
        find_group(groups, "v_head_dim")
    with pytest.raises(UsageError, match="--frozen"):
        find_group(groups, "nothing[7]")


def test_graph_order() -> None:
    text = """(float[1,4] x) => (float y) {
        a = Gemm<transB=1>(x, z__weight) r = Relu(a) b = Gemm<transB=1>(r, m__weight)
        s = Relu(b) y = Gemm<transB=1>(s, a__weight) }"""
    groups = Groups(from_text(text, {"a.weight": (2, 6), "m.weight": (6, 5), "z.weight": (5, 4)}))
    found = [group.name for group in in_graph_order(groups) if group.frozen is None]
    assert found == ["z.features", "m.features"]
