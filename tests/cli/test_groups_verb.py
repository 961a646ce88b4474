"""`sparsecc groups`: its table, JSON, explanations and page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import cli_models
import pytest
from cli_outcome import Cli
from onnx import TensorProto, helper

from sparsecc.axes.groups import Groups
from sparsecc.capture import capture
from sparsecc.report import groups_page_graph
from sparsecc.report.groups_page import render_groups


def test_table(cli: Cli, network: Path) -> None:
    found = cli("groups", network)
    assert found.code == 0
    lines = [line.split() for line in found.out.splitlines()]
    assert lines[0] == ["group", "kind", "size", "exactness", "parameters*", "FLOPs*", "bytes*", "tensors"]
    assert lines[1] == ["w1.channels", "channel", "32", "exact", "137", "39,168", "548", "B", "3"]
    assert lines[2] == ["w2.channels", "channel", "64", "exact", "42", "9,236", "168", "B", "2"]
    assert "5,034 parameters, 20.1 kB, 1,254,656 FLOPs a run; 99.8% of the parameters lie in 2" in found.out
    assert "it is an axis of a graph input" in found.out
    assert "w3.0" not in found.out


def test_frozen_groups_are_listed_on_demand(cli: Cli, network: Path) -> None:
    found = cli("groups", network, "--frozen")
    assert "w3.0" in found.out
    assert "it is an axis of the graph output y" in found.out


@pytest.mark.parametrize("kind", ["channel", "channels"])
def test_kinds(cli: Cli, network: Path, kind: str) -> None:
    assert "w1.channels" in cli("groups", network, "--kind", kind).out
    found = cli("groups", network, "--kind", "heads")
    assert found.code == 0
    assert "no group is of this kind; the model has channel, feature, spatial" in found.out
    found = cli("groups", network, "--kind", "brain")
    assert found.code == 2
    assert "there is no kind 'brain'; there are channel, " in found.sentence()


def test_explain(cli: Cli, network: Path) -> None:
    found = cli("groups", network, "--explain", "w2.channels", "--explain", "w3[0]")
    assert found.code == 0
    chain = "w2[0] -Conv second-> c2[1] -GlobalAveragePool-> p[1] -Flatten-> f[1] -Gemm head-> w3[1]"
    assert chain in found.out
    assert "frozen because it is an axis of the graph output y" in found.out
    found = cli("groups", network, "--explain", "w9")
    assert found.code == 2
    assert "there is no group 'w9'" in found.sentence()


def test_json(cli: Cli, network: Path) -> None:
    found = cli("groups", network, "--json", "--explain", "w2.channels")
    assert found.err == ""
    values = json.loads(found.out)
    assert values["parameters"] == 5034
    assert values["uncovered"] == []
    first = values["groups"][0]
    assert (first["name"], first["kind"], first["size"], first["exactness"]) == (
        "w1.channels", "channel", 32, "exact",
    )  # fmt: skip
    assert first["axes"][2] == {"parameter": "w2", "axis": 1, "positions": [[n] for n in range(32)]}
    assert first["frozen"] is None
    frozen = next(group for group in values["groups"] if group["name"] == "w3.0")
    assert frozen["frozen"]["code"] == "graph-output"
    assert values["explanations"][0]["name"] == "w2.channels"


def test_nothing_can_be_pruned(cli: Cli, tmp_path: Path) -> None:
    """An answer, not an error: `groups` was asked what can be pruned."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "only")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 4], [1.0] * 12)
    path = cli_models.save(cli_models.model(nodes, [x], [y], [weight]), tmp_path / "one.onnx")
    found = cli("groups", path)
    assert found.code == 0
    assert "nothing can be pruned" in found.out
    assert "it is an axis of a graph input" in found.out
    assert "it is an axis of the graph output y" in found.out


class _Page(HTMLParser):
    """Elements are closed in order; what is asked of other places is noted."""

    VOID = frozenset({"meta", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.rows: list[str] = []
        self.nodes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr" and "data-group" in values:
            self.rows.append(values["data-group"] or "")
        if tag == "g":
            self.nodes.append(values.get("data-g") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> _Page:
    """The page, checked to be well formed and to need no other file."""
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.links == []
    assert "http" not in text
    return page


def test_page(cli: Cli, network: Path, tmp_path: Path) -> None:
    path = tmp_path / "groups.html"
    found = cli("groups", network, "--html", path)
    assert found.code == 0
    assert f"wrote {path}" in found.out
    page = parsed(path.read_text(encoding="utf-8"))
    assert page.rows == ["0", "1"]
    assert page.nodes == ["0", "0", "0 1", "1", "1", "1"], "Conv, Relu, Conv, pool, Flatten, Gemm"
    assert [file.name for file in tmp_path.iterdir()] == ["groups.html"]
    found = cli("groups", network, "--html", path)
    assert found.code == 2
    assert "exists: add --force" in found.sentence()
    assert cli("groups", network, "--html", path, "--force").code == 0


def test_large_graphs_are_drawn_by_their_layers(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = Groups(capture(network))
    monkeypatch.setattr(groups_page_graph, "LARGEST", 5)
    text = render_groups(groups, "network")
    assert "6 nodes are too many to draw; these are the 3 that have parameters" in text
    assert parsed(text).nodes == ["0", "0 1", "1"]
    monkeypatch.setattr(groups_page_graph, "LARGEST", 2)
    text = render_groups(groups, "network")
    assert "3 nodes with parameters are too many to draw" in text
    assert parsed(text).nodes == []


def test_names_are_escaped(network: Path) -> None:
    model = capture(network)
    model.graph.initializers["w2"].name = "<script>alert(1)</script>"
    text = render_groups(Groups(model), "<b>")
    assert "<script>alert" not in text
    assert "<b>:" not in text
    parsed(text)
