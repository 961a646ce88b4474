"""Random networks, convolutional ones and transformers, with random zeros, against ONNX Runtime."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import PATTERNS, Network
from stepping import EVERY, check
from test_lower_attention import attention

ACTIVATIONS = ["Relu", "Sigmoid", "Tanh", "HardSwish", "Gelu", "Abs"]
Planes = tuple[str, int, int, int]  # name, channels, height, width
SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def one_of(draw: st.DrawFn, net: Network, values: list[Planes]) -> None:
    """Append one more value that is computed from earlier ones."""
    x, channels, height, width = draw(st.sampled_from(values[-4:]))
    same = [v for v in values if v[1:] == (channels, height, width)]
    beside = [v for v in values if v[2:] == (height, width)]
    kind = draw(
        st.sampled_from(
            ["conv", "conv", "conv", "depthwise", "pool", "add", "concat", "activation", "crop", "gate"]
        )
    )
    if kind == "conv":
        k, s = draw(st.sampled_from([1, 1, 3, 3, 5])), draw(st.sampled_from([1, 1, 2]))
        out, pads = draw(st.sampled_from([3, 8, 17])), draw(st.sampled_from([k // 2, k // 2, 0]))
        if min(height, width) + 2 * pads >= k:
            y = net.conv(
                x,
                channels,
                out,
                (k, k),
                strides=[s, s],
                pads=[pads] * 4,
                pattern=draw(st.sampled_from(PATTERNS)),
            )
            values.append((y, out, (height + 2 * pads - k) // s + 1, (width + 2 * pads - k) // s + 1))
    elif kind == "depthwise" and channels > 1:
        s = draw(st.sampled_from([1, 2]))
        y = net.conv(x, channels, channels, (3, 3), strides=[s, s], pads=[1] * 4, group=channels)
        values.append((y, channels, (height - 1) // s + 1, (width - 1) // s + 1))
    elif kind == "pool" and min(height, width) > 1:
        op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
        values.append(
            (net.add(op, x, kernel_shape=[2, 2], strides=[2, 2]), channels, height // 2, width // 2)
        )
    elif kind == "add":
        values.append((net.add("Add", x, draw(st.sampled_from(same))[0]), channels, height, width))
    elif kind == "concat":
        other = draw(st.sampled_from(beside))
        values.append((net.add("Concat", x, other[0], axis=1), channels + other[1], height, width))
    elif kind == "activation":
        values.append((net.add(draw(st.sampled_from(ACTIVATIONS)), x), channels, height, width))
    elif kind == "crop" and height > 1:
        start, end = draw(st.sampled_from([(0, height - 1), (1, height)]))
        y = net.add("Slice", x, net.constant([start]), net.constant([end]), net.constant([2]))
        values.append((y, channels, height - 1, width))
    elif kind == "gate":
        gate = net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", x), channels, channels, (1, 1)))
        values.append((net.add("Mul", x, gate), channels, height, width))


@SETTINGS
@given(st.data())
def test_convolutional(data: st.DataObject) -> None:
    draw: st.DrawFn = data.draw  # type: ignore[assignment]
    net = Network(seed=draw(st.integers(0, 99)))
    batch, size = draw(st.sampled_from([1, 3])), draw(st.sampled_from([(7, 7), (6, 9), (13, 5)]))
    x = net.input(batch, 3, *size)
    values: list[Planes] = [(x, 3, *size), (net.conv(x, 3, 8, (3, 3), pads=[1] * 4), 8, *size)]
    for _ in range(draw(st.integers(2, 9))):
        one_of(draw, net, values)
    last, channels, height, width = values[-1]
    flat = net.add("Flatten", last)
    net.output(net.linear(flat, channels * height * width, 5, pattern="unstructured 80"))
    net.output(*{v[0] for v in draw(st.lists(st.sampled_from(values[1:]), max_size=3))})
    check(net, draw(st.sampled_from(EVERY)), tolerance=3e-5)


@SETTINGS
@given(st.data())
def test_transformers(data: st.DataObject) -> None:
    draw: st.DrawFn = data.draw  # type: ignore[assignment]
    net = Network(seed=draw(st.integers(0, 99)))
    batch, tokens = draw(st.sampled_from([(1, 1), (1, 7), (1, 16), (3, 5), (2, 13)]))
    x = net.input(batch, tokens, 10)
    values = [(x, 10)]
    for _ in range(draw(st.integers(2, 7))):
        y, width = draw(st.sampled_from(values[-3:]))
        pattern = draw(st.sampled_from(PATTERNS))
        kind = draw(
            st.sampled_from(
                ["linear", "linear", "bias", "norm", "add", "activation", "attention", "mix", "split"]
            )
        )
        if kind == "linear":
            out = draw(st.sampled_from([6, 10, 33]))
            values.append((net.linear(y, width, out, pattern=pattern), out))
        elif kind == "bias":
            values.append((net.add("Add", y, net.normal(width)), width))
        elif kind == "norm":
            values.append((net.add("LayerNormalization", y, net.normal(width), net.normal(width)), width))
        elif kind == "add":
            values.append(
                (net.add("Add", y, draw(st.sampled_from([v for v, n in values if n == width]))), width)
            )
        elif kind == "activation":
            values.append((net.add(draw(st.sampled_from(ACTIVATIONS)), y), width))
        elif kind == "attention" and width == 10:
            mask = draw(st.sampled_from(["none", "additive", "causal"]))
            values.append((attention(net, y, batch, tokens, mask=mask, pattern=pattern), width))
        elif kind == "mix":
            turned = net.linear(net.add("Transpose", y, perm=[0, 2, 1]), tokens, tokens, pattern=pattern)
            values.append((net.add("Transpose", turned, perm=[0, 2, 1]), width))
        elif kind == "split" and width % 2 == 0:
            halves = net.add("Split", y, axis=2, outputs=2, num_outputs=2)
            values.append((net.add("Mul", halves[0], net.add("Sigmoid", halves[1])), width // 2))
    net.output(
        values[-1][0],
        *{v for v, _ in draw(st.lists(st.sampled_from(values[1:] or values), max_size=2))} - {values[-1][0]},
    )
    check(net, draw(st.sampled_from(EVERY)), tolerance=3e-5)
