"""A small network for every kind of layer with weights, and a selector that goes through its kernel forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from networks import Network

from sparsecc.targets.lower.layers import Layer


def convolution() -> Network:
    net = Network()
    net.output(net.conv(net.input(2, 24, 9, 11), 24, 26, (1, 1), pattern="unstructured 80"))
    return net


def shiftable() -> Network:
    net = Network()
    x = net.conv(net.input(1, 8, 16, 16), 8, 16, (1, 1), pattern="4x1 80")
    net.output(net.conv(x, 16, 24, (3, 3), pads=[1] * 4, pattern="unstructured 80"))
    return net


def strided() -> Network:
    net = Network()
    net.output(
        net.conv(net.input(1, 8, 13, 13), 8, 16, (3, 3), strides=[2, 2], pads=[1] * 4, pattern="2x1 70")
    )
    return net


def grouped() -> Network:
    net = Network()
    net.output(net.conv(net.input(1, 12, 9, 9), 12, 24, (3, 3), pads=[1] * 4, group=3, pattern="4x1 80"))
    return net


def tokens() -> Network:
    net = Network()
    net.output(net.linear(net.input(40, 160), 160, 70, pattern="unstructured 80"))
    return net


def few(columns: int, bits: int | None = None) -> Network:
    net = Network()
    net.output(net.linear(net.input(columns, 128), 128, 70, pattern="unstructured 80", bits=bits))
    return net


def codes() -> Network:
    net = Network()
    x = net.coded(net.input(1, 16, 9, 9))
    y = net.add("Conv", x, net.weight8(24, 16, 3, 3, pattern="4x1 80", block=4), net.bias8(24), pads=[1] * 4)
    net.output(net.coded(y))
    return net


KINDS: dict[str, Callable[[], Network]] = {
    "convolution": convolution, "shiftable": shiftable, "strided": strided, "grouped": grouped,
    "tokens": tokens, "one column": lambda: few(1), "five columns": lambda: few(5),
    "8 bits": lambda: few(2, 8), "4 bits": lambda: few(2, 4), "codes": codes,
}  # fmt: skip


class Nth:
    """Wants the candidate of an index from every layer.

    Attributes:
        most: candidates of the layer that has most.
        taken: form by node.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self.most = 0
        self.taken: dict[str, str] = {}

    def select(
        self, node: str, layer: Layer, forms: Mapping[str, float], best: str
    ) -> tuple[str, str] | None:
        assert best in forms and layer.exact_key() and layer.similar_key()
        self.most = max(self.most, len(forms))
        self.taken[node] = list(forms)[self._index % len(forms)]
        return self.taken[node], f"number {self._index}"
