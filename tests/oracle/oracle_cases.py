"""Networks with a plan and a version pruned by hand, by explicit indexing that owes nothing to the oracle."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper, parser

Arrays = dict[str, np.ndarray]
Positions = list[int]
Axes = dict[str, Positions]


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: for test ids.
        text: the graph in ONNX's text form; floats of the original are `weights`.
        weights: initializers of the original.
        pruned: initializers of the pruned model that are not the original's.
        kept: of the plan.
        normalizations: of the plan.
        constants: of the plan.
        cut: of the pruned graph, text to replace in the original's.
        victim: the weight whose slice the negative controls spoil, and its axis.
        reduced: size of the axes that `normalizations` names.
    """

    name: str
    text: str
    weights: Arrays
    pruned: Arrays
    kept: dict[str, Axes]
    victim: tuple[str, int]
    normalizations: dict[str, Axes]
    constants: dict[str, Axes]
    cut: dict[str, str]
    reduced: int

    @property
    def plan(self) -> dict[str, object]:
        """As JSON would give it."""
        return {
            "format": 1,
            "kept": self.kept,
            "normalizations": self.normalizations,
            "constants": self.constants,
            "made by": "hand",
        }

    def original_model(self) -> onnx.ModelProto:
        """Before pruning."""
        return model_of(self.text, self.weights)

    def pruned_model(self) -> onnx.ModelProto:
        """After pruning."""
        text = self.text
        for old, new in self.cut.items():
            assert old in text
            text = text.replace(old, new)
        return model_of(text, self.weights | self.pruned)

    def spoiled(self, change: Callable[[np.ndarray], np.ndarray]) -> Case:
        """The victim of the pruned model made from the original's in another way."""
        name, _ = self.victim
        return replace(self, pruned=self.pruned | {name: change(self.weights[name])})


def model_of(text: str, weights: Mapping[str, np.ndarray], opset: int = 23) -> onnx.ModelProto:
    """`(float[2,3] x) => (float[2,4] y) { y = MatMul(x, w) }` and its initializers, named nodes or not."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> test {text}')
    read = {name for node in proto.graph.node for name in node.input}
    for name, array in weights.items():
        if name in read:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def normal(**shapes: tuple[int, ...]) -> Arrays:
    """Small normal numbers, seeded by the names; scales (`g…`) lie around one."""
    result: Arrays = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        result[name] = 1 + 0.2 * values if name.startswith("g") else 0.5 * values
    return result


def case(
    name: str,
    text: str,
    weights: Arrays,
    pruned: Arrays,
    kept: dict[str, Axes],
    victim: tuple[str, int],
    normalizations: dict[str, Axes] | None = None,
    constants: dict[str, Axes] | None = None,
    cut: dict[str, str] | None = None,
    reduced: int = 8,
) -> Case:
    """A case; what it leaves out is empty."""
    return Case(
        name, text, weights, pruned, kept, victim, normalizations or {}, constants or {}, cut or {}, reduced
    )


def ints(*values: int) -> np.ndarray:
    """An int64 shape or list of axes."""
    return np.array(values, np.int64)


H: Positions = [0, 2, 5, 6]
F: Positions = [1, 2, 4, 7, 9]


def residual_block() -> Case:
    w = normal(w0=(6, 8), b0=(8,), g1=(8,), b1=(8,), w2=(8, 10), b2=(10,), w3=(10, 8), b3=(8,))
    w |= normal(g4=(8,), b4=(8,), w5=(8, 5))
    return case(
        "residual block with LayerNormalization",
        """(float[2,3,6] x) => (float[2,3,5] y) {
            m0 = MatMul(x, w0)
            h = Add(m0, b0)
            n = LayerNormalization(h, g1, b1)
            m2 = MatMul(n, w2)
            a2 = Add(m2, b2)
            r2 = Relu(a2)
            m3 = MatMul(r2, w3)
            a3 = Add(m3, b3)
            r = Add(h, a3)
            n4 = LayerNormalization <axis = 2> (r, g4, b4)
            y = MatMul(n4, w5)
        }""",
        w,
        {
            **{name: w[name][:, H] for name in ("w0",)},
            **{name: w[name][H] for name in ("b0", "g1", "b1", "b3", "g4", "b4", "w5")},
            "w2": w["w2"][H][:, F],
            "b2": w["b2"][F],
            "w3": w["w3"][F][:, H],
        },
        {
            "w0": {"1": H},
            **{name: {"0": H} for name in ("b0", "g1", "b1", "b3", "g4", "b4", "w5")},
            "w2": {"0": H, "1": F},
            "b2": {"0": F},
            "w3": {"0": F, "1": H},
        },
        ("b2", 0),
        {"n": {"2": H}, "n4": {"2": H}},
    )


def conv_batch_norm() -> Case:
    w = normal(w0=(8, 3, 3, 3), g1=(8,), b1=(8,), mean=(8,), w2=(8, 1, 3, 3), w3=(4, 8, 1, 1), b3=(4,))
    w["variance"] = np.abs(normal(v=(8,))["v"]) + 0.5
    w |= normal(w4=(5, 4), b4=(5,))
    return case(
        "convolution, BatchNormalization, depthwise, Gemm",
        """(float[2,3,6,7] x) => (float[2,5] y) {
            c0 = Conv <pads = [1,1,1,1]> (x, w0)
            n = BatchNormalization(c0, g1, b1, mean, variance)
            r = Relu(n)
            c2 = Conv <group = 8, pads = [1,1,1,1]> (r, w2)
            c3 = Conv(c2, w3, b3)
            p = GlobalAveragePool(c3)
            f = Flatten(p)
            y = Gemm <transB = 1> (f, w4, b4)
        }""",
        w,
        {
            **{name: w[name][H] for name in ("w0", "g1", "b1", "mean", "variance", "w2")},
            "w3": w["w3"][[0, 3]][:, H],
            "b3": w["b3"][[0, 3]],
            "w4": w["w4"][:, [0, 3]],
        },
        {
            **{name: {"0": H} for name in ("w0", "g1", "b1", "mean", "variance", "w2")},
            "w3": {"0": [0, 3], "1": H},
            "b3": {"0": [0, 3]},
            "w4": {"1": [0, 3]},
        },
        ("b1", 0),
        cut={"group = 8": "group = 4"},
    )


C: Positions = [0, 2, 3, 5, 7, 8, 9, 11]
"""Two of the three channels in each of four groups."""


def group_norm() -> Case:
    w = normal(w0=(12, 3, 3, 3), b0=(12,), g1=(12,), b1=(12,), w2=(4, 12, 3, 3))
    return case(
        "GroupNormalization",
        """(float[2,3,6,7] x) => (float y) {
            c0 = Conv(x, w0, b0)
            n = GroupNormalization <num_groups = 4> (c0, g1, b1)
            r = Sigmoid(n)
            z = Mul(r, n)
            y = Conv(z, w2)
        }""",
        w,
        {**{name: w[name][C] for name in ("w0", "b0", "g1", "b1")}, "w2": w["w2"][:, C]},
        {**{name: {"0": C} for name in ("w0", "b0", "g1", "b1")}, "w2": {"1": C}},
        ("b1", 0),
        {"n": {"1": C}},
        reduced=12,
    )


def group_norm_of_torch() -> Case:
    w = normal(w0=(12, 3, 3, 3), b0=(12,), g1=(12, 1, 1), b1=(12, 1, 1), w2=(4, 12, 3, 3))
    w |= {"ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}
    w |= {"groups": ints(0, 4, -1), "shape": ints(2, 12, 4, 5)}
    inside = [channel * 20 + pixel for channel in (0, 2) for pixel in range(20)]
    alike = [0, 2, 3, 5, 6, 8, 9, 11]
    return case(
        "group norm as Reshape and InstanceNormalization",
        """(float[2,3,6,7] x) => (float y) {
            c0 = Conv(x, w0, b0)
            grouped = Reshape(c0, groups)
            n = InstanceNormalization(grouped, ones, zeros)
            flat = Reshape(n, shape)
            scaled = Mul(flat, g1)
            shifted = Add(scaled, b1)
            r = Relu(shifted)
            y = Conv(r, w2)
        }""",
        w,
        {
            **{name: w[name][alike] for name in ("w0", "b0", "g1", "b1")},
            "w2": w["w2"][:, alike],
            "shape": ints(2, 8, 4, 5),
        },
        {**{name: {"0": alike} for name in ("w0", "b0", "g1", "b1")}, "w2": {"1": alike}},
        ("g1", 0),
        {"n": {"2": inside}},
        reduced=60,
    )


def rms_norm_by_hand() -> Case:
    w = normal(w0=(6, 8), g1=(8,), w2=(8, 5)) | {"two": np.array(2, np.float32)}
    w |= {"epsilon": np.array(1e-6, np.float32), "last": ints(-1)}
    return case(
        "RMS norm of ReduceMean",
        """(float[2,3,6] x) => (float[2,3,5] y) {
            h = MatMul(x, w0)
            squared = Pow(h, two)
            mean = ReduceMean(squared, last)
            safe = Add(mean, epsilon)
            root = Sqrt(safe)
            n = Div(h, root)
            scaled = Mul(n, g1)
            y = MatMul(scaled, w2)
        }""",
        w,
        {"w0": w["w0"][:, H], "g1": w["g1"][H], "w2": w["w2"][H]},
        {"w0": {"1": H}, "g1": {"0": H}, "w2": {"0": H}},
        ("g1", 0),
        {"mean": {"2": H}},
    )


def layer_norm_by_hand() -> Case:
    w = normal(w0=(6, 8), b0=(8,), g1=(8,), b1=(8,), w2=(8, 5)) | {"last": ints(2)}
    w["epsilon"] = np.array(1e-5, np.float32)
    return case(
        "layer norm of ReduceMean, in which removed entries are not zero",
        """(float[2,3,6] x) => (float[2,3,5] y) {
            m0 = MatMul(x, w0)
            h = Add(m0, b0)
            mean = ReduceMean(h, last)
            centred = Sub(h, mean)
            squared = Mul(centred, centred)
            variance = ReduceMean(squared, last)
            safe = Add(variance, epsilon)
            root = Sqrt(safe)
            n = Div(centred, root)
            scaled = Mul(n, g1)
            shifted = Add(scaled, b1)
            y = MatMul(shifted, w2)
        }""",
        w,
        {"w0": w["w0"][:, H], **{name: w[name][H] for name in ("b0", "g1", "b1", "w2")}},
        {"w0": {"1": H}, **{name: {"0": H} for name in ("b0", "g1", "b1", "w2")}},
        ("b1", 0),
        {"mean": {"2": H}, "variance": {"2": H}},
    )


def several_norms() -> Case:
    w = normal(w0=(6, 8), b0=(8,), g1=(8,), w2=(8, 5)) | {"rows": ints(0, 0, -1, 1)}
    return case(
        "RMSNormalization, MeanVarianceNormalization, LpNormalization and ReduceL2",
        """(float[2,3,6] x) => (float[2,3,5] y, float[2,3,5] z, float[2,3,1] length) {
            m0 = MatMul(x, w0)
            h = Add(m0, b0)
            rms = RMSNormalization(h, g1)
            y = MatMul(rms, w2)
            mvn = MeanVarianceNormalization <axes = [2]> (h)
            unit = LpNormalization(mvn)
            z = MatMul(unit, w2)
            length = ReduceL2 <keepdims = 1> (mvn, last)
        }""",
        w | {"last": ints(-1)},
        {"w0": w["w0"][:, H], **{name: w[name][H] for name in ("b0", "g1", "w2")}},
        {"w0": {"1": H}, **{name: {"0": H} for name in ("b0", "g1", "w2")}},
        ("b0", 0),
        {name: {"2": H} for name in ("rms", "mvn", "unit", "length")},
    )


def lstm() -> Case:
    w = normal(wi=(2, 16, 6), wr=(2, 16, 4), wb=(2, 32), w1=(8, 5), b1=(5,)) | {"flat": ints(3, 2, -1)}
    keep = [0, 2, 3]
    gates = [4 * gate + unit for gate in range(4) for unit in keep]
    biases = [*gates, *(16 + position for position in gates)]
    both = [*keep, *(4 + unit for unit in keep)]
    return case(
        "bidirectional LSTM",
        """(float[3,2,6] x) => (float[3,2,5] y) {
            h = LSTM <hidden_size = 4, direction = "bidirectional"> (x, wi, wr, wb)
            t = Transpose <perm = [0,2,1,3]> (h)
            f = Reshape(t, flat)
            m = MatMul(f, w1)
            y = Add(m, b1)
        }""",
        w,
        {
            "wi": w["wi"][:, gates],
            "wr": w["wr"][:, gates][:, :, keep],
            "wb": w["wb"][:, biases],
            "w1": w["w1"][both],
        },
        {
            "wi": {"1": gates},
            "wr": {"1": gates, "2": keep},
            "wb": {"1": biases},
            "w1": {"0": both},
        },
        ("wb", 1),
        cut={"hidden_size = 4": "hidden_size = 3"},
    )


def attention() -> Case:
    w = normal(wq=(6, 12), bq=(12,), wk=(6, 12), wv=(6, 12), bv=(12,), wo=(12, 6), bo=(6,))
    w |= {"split": ints(2, 5, 3, 4), "join": ints(2, 5, 12), "scale": np.array(0.5, np.float32)}
    features, values = [0, 1, 3], [1, 2]
    qk = [4 * head + feature for head in (0, 2) for feature in features]
    v = [4 * head + feature for head in (0, 2) for feature in values]
    return case(
        "attention without its second head and with narrower ones",
        """(float[2,5,6] x) => (float[2,5,6] y) {
            q0 = MatMul(x, wq)
            q1 = Add(q0, bq)
            q2 = Reshape(q1, split)
            q = Transpose <perm = [0,2,1,3]> (q2)
            k0 = MatMul(x, wk)
            k1 = Reshape(k0, split)
            k = Transpose <perm = [0,2,3,1]> (k1)
            v0 = MatMul(x, wv)
            v1 = Add(v0, bv)
            v2 = Reshape(v1, split_v)
            v = Transpose <perm = [0,2,1,3]> (v2)
            s0 = MatMul(q, k)
            s1 = Mul(s0, scale)
            s = Softmax(s1)
            o0 = MatMul(s, v)
            o1 = Transpose <perm = [0,2,1,3]> (o0)
            o2 = Reshape(o1, join)
            o3 = MatMul(o2, wo)
            y = Add(o3, bo)
        }""",
        w | {"split_v": w["split"]},
        {
            "wq": w["wq"][:, qk],
            "bq": w["bq"][qk],
            "wk": w["wk"][:, qk],
            "wv": w["wv"][:, v],
            "bv": w["bv"][v],
            "wo": w["wo"][v],
            "split": ints(2, 5, 2, 3),
            "split_v": ints(2, 5, 2, 2),
            "join": ints(2, 5, 4),
        },
        {
            **{name: {"1": qk} for name in ("wq", "wk")},
            "bq": {"0": qk},
            "wv": {"1": v},
            "bv": {"0": v},
            "wo": {"0": v},
        },
        ("bv", 0),
    )


def tied_embedding() -> Case:
    w = normal(table=(7, 8), positions=(3, 8), w1=(8, 10), w2=(10, 8), g3=(8,))
    return case(
        "tied embedding",
        """(int64[2,3] ids) => (float[2,3,7] y) {
            e = Gather(table, ids)
            h = Add(e, positions)
            m1 = MatMul(h, w1)
            a = Gelu(m1)
            m2 = MatMul(a, w2)
            r = Add(m2, h)
            n = RMSNormalization(r, g3)
            turned = Transpose(table)
            y = MatMul(n, turned)
        }""",
        w,
        {
            **{name: w[name][:, H] for name in ("table", "positions")},
            "w1": w["w1"][H][:, F],
            "w2": w["w2"][F][:, H],
            "g3": w["g3"][H],
        },
        {
            **{name: {"1": H} for name in ("table", "positions")},
            "w1": {"0": H, "1": F},
            "w2": {"0": F, "1": H},
            "g3": {"0": H},
        },
        ("positions", 1),
        {"n": {"2": H}},
    )


def computed_constant() -> Case:
    w = normal(w0=(6, 8), w1=(8, 5)) | {"start": np.array(0, np.int64), "step": np.array(1, np.int64)}
    w["limit"] = np.array(8, np.int64)
    return case(
        "constant computed from others",
        """(float[2,6] x) => (float[2,5] y) {
            m = MatMul(x, w0)
            counted = Range(start, limit, step)
            ramp = Cast <to = 1> (counted)
            level = Constant <value_floats = [0.5, -1.0, 2.0, 1.5, 0.25, 3.0, -2.0, 1.0]> ()
            lower = Add(m, level)
            a = Add(lower, ramp)
            b = Cos(a)
            c = Mul(b, ramp)
            y = MatMul(c, w1)
        }""",
        w,
        {
            "w0": w["w0"][:, H],
            "w1": w["w1"][H],
            "ramp": np.arange(8, dtype=np.float32)[H],
            "level": np.array([0.5, 2.0, 3.0, -2.0], np.float32),
        },
        {"w0": {"1": H}, "w1": {"0": H}},
        ("w0", 1),
        constants={"ramp": {"0": H}, "level": {"0": H}},
        cut={
            "counted = Range(start, limit, step)": "",
            "ramp = Cast <to = 1> (counted)": "",
            "level = Constant <value_floats = [0.5, -1.0, 2.0, 1.5, 0.25, 3.0, -2.0, 1.0]> ()": "",
        },
    )


CASES = [
    residual_block(),
    conv_batch_norm(),
    group_norm(),
    group_norm_of_torch(),
    rms_norm_by_hand(),
    layer_norm_by_hand(),
    several_norms(),
    lstm(),
    attention(),
    tied_embedding(),
    computed_constant(),
]
