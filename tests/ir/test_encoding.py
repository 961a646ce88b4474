"""Encodings: text round trip, patterns found from zeros, tags that survive saving and get checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.errors import UsageError
from sparsecc.ir.encoding import (
    DENSE,
    UNSTRUCTURED,
    Encoding,
    as_matrix,
    coarser,
    encoding_of,
    fits,
    from_matrix,
    get_encoding,
    row_major,
    set_encoding,
)

ENCODINGS = st.one_of(
    st.sampled_from([DENSE, UNSTRUCTURED, Encoding("fan-in")]),
    st.integers(1, 15).flatmap(
        lambda n: st.builds(Encoding, st.just("n:m"), n=st.just(n), m=st.integers(n + 1, 16))
    ),
    st.tuples(st.integers(1, 16), st.integers(2, 16)).map(
        lambda s: Encoding("block", rows=s[0], columns=s[1])
    ),
)


@given(ENCODINGS, st.sampled_from(["float32", "int8", "int4", "bfloat16"]))
def test_text_round_trip(encoding: Encoding, value_type: str) -> None:
    typed = Encoding(encoding.pattern, encoding.n, encoding.m, encoding.rows, encoding.columns, value_type)
    assert Encoding.parse(str(typed)) == typed


@given(st.text(max_size=8))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        encoding = Encoding.parse(text)
    except UsageError:
        return
    assert Encoding.parse(str(encoding)) == encoding


@pytest.mark.parametrize(
    "text", ["", "4", "x", "4x", "0x4", "1x1", "4:2", "2:2", "0:4", "sparse", "4x1/", "4x1/Float 3"]
)
def test_bad_texts(text: str) -> None:
    if text == "4x1/":
        assert Encoding.parse(text) == Encoding("block", rows=4, columns=1)
        return
    with pytest.raises(UsageError):
        Encoding.parse(text)


def block_mask(shape: tuple[int, int], block: tuple[int, int], kept: float, seed: int = 0) -> np.ndarray:
    """Random mask whose blocks are kept with a probability, written without the code under test."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    height, width = block
    for r in range(0, shape[0], height):
        for c in range(0, shape[1], width):
            mask[r : r + height, c : c + width] = generator.random() < kept
    return mask


def weight(mask: np.ndarray) -> np.ndarray:
    """Numbers away from zero where the mask is set."""
    return np.where(mask, 1.5, 0).astype(np.float32)


@pytest.mark.parametrize(
    ("height", "width"), [(4, 1), (2, 1), (8, 1), (16, 1), (1, 16), (1, 4), (4, 4), (2, 8)]
)
@pytest.mark.parametrize("kept", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("rows", [64, 70])
def test_blocks_are_found(height: int, width: int, kept: float, rows: int) -> None:
    mask = block_mask((rows, 96), (height, width), kept)
    assert str(encoding_of(weight(mask))) == f"{height}x{width}"
    assert str(encoding_of(weight(mask).T, axis=1)) == f"{height}x{width}"


def test_a_few_stray_zeros_do_not_hide_blocks() -> None:
    mask = block_mask((64, 96), (4, 1), 0.3, 1)
    mask &= np.random.default_rng(2).random(mask.shape) < 0.98
    assert str(encoding_of(weight(mask))) == "4x1"


@pytest.mark.parametrize("zeros", [0.051, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99])
def test_random_zeros_are_unstructured(zeros: float) -> None:
    mask = np.random.default_rng(3).random((256, 300)) >= zeros
    assert encoding_of(weight(mask)) == UNSTRUCTURED


@pytest.mark.parametrize("zeros", [0.0, 0.02, 0.045])
def test_few_zeros_are_dense(zeros: float) -> None:
    mask = np.random.default_rng(4).random((128, 128)) >= zeros
    assert encoding_of(weight(mask)) == DENSE


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (4, 8), (2, 8), (5, 16), (8, 16)])
def test_groups_are_found(n: int, m: int) -> None:
    order = np.random.default_rng(5).random((64, 12, m)).argsort(axis=2)
    mask = (order < n).reshape(64, -1)
    assert str(encoding_of(weight(mask))) == f"{n}:{m}"


def test_equal_rows_are_fan_in() -> None:
    order = np.random.default_rng(6).random((64, 99)).argsort(axis=1)
    assert encoding_of(weight(order < 20)) == Encoding("fan-in")


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 5), (5, 1), (0, 3), (3, 0), (2, 3, 4, 5)])
def test_any_shape_has_an_encoding(shape: tuple[int, ...]) -> None:
    assert encoding_of(np.ones(shape, np.float32)) == DENSE
    empty = encoding_of(np.zeros(shape, np.float32))
    assert empty == (UNSTRUCTURED if np.zeros(shape).size else DENSE)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).flatmap(
        lambda dims: st.tuples(st.just(tuple(dims)), st.integers(0, len(dims) - 1))
    )
)
def test_matrix_view_round_trip(case: tuple[tuple[int, ...], int]) -> None:
    shape, axis = case
    array = np.arange(np.prod(shape)).reshape(shape)
    matrix = as_matrix(array, axis)
    assert matrix.shape[0] == shape[axis]
    np.testing.assert_array_equal(from_matrix(matrix, shape, axis), array)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1))
def test_what_is_found_fits(seed: int, rows: int, columns: int, zeros: float) -> None:
    array = weight(np.random.default_rng(seed).random((rows, columns)) >= zeros)
    assert fits(array, encoding_of(array))
    np.testing.assert_equal(encoding_of(array), encoding_of(array.T.copy(), axis=1))


@given(st.integers(0, 99), *[st.integers(1, 20)] * 2, *[st.integers(1, 6)] * 2, st.booleans())
def test_coarser(seed: int, rows: int, columns: int, height: int, width: int, turned: bool) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < 0.1
    mask = np.asfortranarray(mask) if turned else mask
    found = coarser(mask, height, width)
    expected = [
        [bool(mask[r : r + height, c : c + width].any()) for c in range(0, columns, width)]
        for r in range(0, rows, height)
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 16), (33, 47), (2, 3, 4)])
def test_row_major(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    assert row_major(array) is array
    turned = row_major(array.T)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, array.T)


def test_a_tag_survives_saving(tmp_path: Path) -> None:
    array = weight(block_mask((32, 32), (4, 1), 0.5, 7))
    x, y = ir.val("x", ir.DataType.FLOAT, [1, 32]), ir.val("y", ir.DataType.FLOAT, [1, 32])
    value = ir.val("w", const_value=ir.tensor(array, name="w"))
    node = ir.node("MatMul", [x, value], outputs=[y])
    model = ir.Model(
        ir.Graph([x], [y], nodes=[node], initializers=[value], opset_imports={"": 23}, name="g"),
        ir_version=11,
    )
    set_encoding(value, Encoding("block", rows=2, columns=1, value_type="float32"))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    loaded = ir.load(tmp_path / "m.onnx").graph.initializers["w"]
    assert str(get_encoding(loaded)) == "2x1"


def test_a_tag_that_the_zeros_contradict_is_not_believed() -> None:
    value = ir.val("w", const_value=ir.tensor(weight(block_mask((64, 64), (4, 1), 0.5, 8)), name="w"))
    set_encoding(value, Encoding("block", rows=8, columns=1))
    assert str(get_encoding(value)) == "4x1"
    set_encoding(value, Encoding("n:m", n=2, m=4))
    assert str(get_encoding(value)) == "4x1"
    set_encoding(value, DENSE)
    assert str(get_encoding(value)) == "4x1"


def test_a_value_without_data_has_no_encoding() -> None:
    with pytest.raises(UsageError, match="x is no initializer"):
        get_encoding(ir.val("x"))
