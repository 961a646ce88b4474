"""Enlarged weights: what is replaced, by what, and what is left alone."""

from __future__ import annotations

import numpy as np
from oracle_cases import Arrays, conv_batch_norm, ints, model_of, normal, residual_block

from sparsecc.oracle.network import Network, dismantle
from sparsecc.oracle.weights import Role, WeightRoles, enlarged


def network(text: str, weights: Arrays) -> Network:
    return dismantle(model_of(text, weights), "float32")


def test_roles_follow_the_consumers() -> None:
    case = conv_batch_norm()
    parts = dismantle(case.original_model(), "float32")
    roles = WeightRoles(parts)
    assert {name: roles.role(name) for name in ("w0", "g1", "b1", "mean", "variance", "w2", "w4")} == {
        "w0": (Role.MATRIX, 27),
        "g1": (Role.SCALE, 1),
        "b1": (Role.SHIFT, 1),
        "mean": (Role.SHIFT, 1),
        "variance": (Role.POSITIVE, 1),
        "w2": (Role.MATRIX, 9),
        "w4": (Role.MATRIX, 4),
    }


def test_roles_pass_through_moves_and_ties() -> None:
    weights = normal(table=(7, 8), v=(8,)) | {"e": np.array(1e-5, np.float32)}
    text = """(int64[2,3] ids) => (float[2,3,7] y) {
        e0 = Gather(table, ids) s0 = Add(v, e) s1 = Sqrt(s0) e1 = Div(e0, s1)
        t = Transpose(table) y = MatMul(e1, t) }"""
    roles = WeightRoles(network(text, weights))
    assert roles.role("table") == (Role.MATRIX, 8)
    assert roles.role("v") == (Role.POSITIVE, 1)


def test_values_of_each_role() -> None:
    case = conv_batch_norm()
    parts = dismantle(case.original_model(), "float32")
    values = enlarged(parts, parts, {}, 0)
    assert values.keys() == case.weights.keys()
    assert values["variance"].min() >= 0.5
    assert all(array.shape == case.weights[name].shape for name, array in values.items())
    large = network(
        "(float[2,400] x) => (float y) { y = MatMul(x, w) }", {"w": np.zeros((400, 300), np.float32)}
    )
    (matrix,) = enlarged(large, large, {}, 0).values()
    np.testing.assert_allclose(matrix.std(), np.sqrt(2 / 400), rtol=0.01)


def test_values_depend_on_seed_and_name_only() -> None:
    parts = dismantle(residual_block().original_model(), "float32")
    smaller = network("(float[2,3,6] x) => (float y) { y = MatMul(x, w0) }", normal(w0=(6, 8)))
    first, again = enlarged(parts, parts, {}, 3), enlarged(smaller, smaller, {}, 3)
    np.testing.assert_array_equal(first["w0"], again["w0"])
    assert not np.array_equal(first["w0"], enlarged(parts, parts, {}, 4)["w0"])
    assert not np.array_equal(first["b1"], first["b3"])


def test_scalars_masks_shapes_and_indices_are_left_alone() -> None:
    weights = {
        "scalar": np.array(0.5, np.float32),
        "single": np.ones((1, 1), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "infinite": np.array([0, -np.inf], np.float32),
        "lowest": np.array([0, -1e9], np.float32),
        "binary": np.array([1, 0], np.float32),
        "index": np.array([1, 0], np.float32),
        "order": ints(0, 1),
        "bias": np.array([0, 0], np.float32),
    }
    text = """(float[1,3,2,2] x) => (float y) {
        a = Mul(x, scalar) b = Mul(a, single) c = Add(b, infinite) d = Add(c, lowest) e = Mul(d, binary)
        whole = Cast <to = 7> (index) f = Gather <axis = 3> (e, whole) g = Gather <axis = 2> (f, order)
        h = Add(g, bias) y = Resize(h, , scales) }"""
    parts = network(text, weights)
    assert enlarged(parts, parts, {}, 0).keys() == {"bias"}
    assert enlarged(parts, parts, {"binary": {}}, 0).keys() == {"bias", "binary"}


def test_weights_from_which_the_pruned_model_has_computed_are_left_alone() -> None:
    weights = normal(w=(6, 8), u=(6, 8))
    before = network(
        "(float[2,6] x) => (float y) { s = Add(w, u) y = MatMul(x, s) z = MatMul(x, u) }", weights
    )
    folded = weights | {"s": weights["w"] + weights["u"]}
    after = network("(float[2,6] x) => (float y) { y = MatMul(x, s) z = MatMul(x, u) }", folded)
    assert enlarged(before, after, {}, 0) == {}
    assert enlarged(before, before, {}, 0).keys() == {"w", "u"}
