"""Runs kernels as an artifact would: object -> shared library -> C calls on padded, canary-filled buffers."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import tvm
from onnx import helper

from sparsecc.targets.build import build_objects
from sparsecc.targets.kernels.chain import GenericChain
from sparsecc.targets.kernels.generic import legalize
from sparsecc.targets.layout import Layout, PlaneSpec

Array = npt.NDArray[Any]
TARGET: dict[str, object] = {
    "kind": "llvm",
    "mcpu": tvm.get_global_func("tvm.codegen.llvm.GetHostCPUName")(),
}
LANES = 16
GUARD = 1024  # canary elements on both sides of a buffer


def load_kernels(makers: dict[str, Callable[[], Any]], version: str | None = None) -> dict[str, Any]:
    """Compile and load kernels; `version` names a cache entry, None compiles anew."""
    objects = build_objects(makers, TARGET, source_version=version)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths: list[str] = []
        for symbol, data in objects.items():
            path = folder / f"{symbol}.o"
            path.write_bytes(data)
            paths.append(str(path))
        library = folder / "kernels.so"
        subprocess.run(["cc", "-shared", "-o", str(library), *paths, "-lm"], check=True)
        loaded = ctypes.CDLL(str(library))  # stays mapped when its file goes
    return {symbol: loaded[symbol] for symbol in objects}


class Buffer:
    """A strided tensor in memory with canaries wherever no element lies."""

    def __init__(
        self,
        layout: Layout,
        shape: Sequence[int],
        dtype: Any,
        values: Array | None = None,
        canary: Any = None,
    ) -> None:
        self.layout, self.shape, self.dtype = layout, tuple(shape), np.dtype(dtype)
        self.canary = self._canary() if canary is None else canary
        size = layout.size + 2 * GUARD
        raw = np.empty((size + 64) * self.dtype.itemsize, np.uint8)
        start = -raw.ctypes.data % 64
        self.memory = raw[start : start + size * self.dtype.itemsize].view(self.dtype)
        self.memory[:] = self.canary
        self.elements = np.lib.stride_tricks.as_strided(
            self.memory[GUARD + layout.origin :],
            self.shape,
            [s * self.dtype.itemsize for s in layout.strides],
        )
        if values is not None:
            self.elements[...] = values

    def _canary(self) -> Any:
        return (
            np.nan
            if self.dtype.kind == "f"
            else np.array(77).astype(self.dtype)
            if self.dtype.kind != "b"
            else True
        )

    @property
    def pointer(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.memory.ctypes.data + GUARD * self.dtype.itemsize)

    @property
    def inside(self) -> Array:
        """The buffer without its guards."""
        return self.memory[GUARD : GUARD + self.layout.size]

    def padding_intact(self) -> bool:
        """Whether everything that is no element still holds the canary."""
        left = self.memory.copy()
        view = np.lib.stride_tricks.as_strided(
            left[GUARD + self.layout.origin :], self.shape, self.elements.strides
        )
        view[...] = self.canary
        return bool(np.array_equal(left, np.full_like(left, self.canary), equal_nan=self.dtype.kind == "f"))


def call(
    function: Any, pointers: Sequence[Buffer | Array], scalars: Sequence[int], extent: int, seed: int = 0
) -> None:
    """Call a kernel on [0, extent) in a few random pieces, the last first."""
    rng = np.random.default_rng(seed)
    cuts = sorted({0, extent, *(int(c) for c in rng.integers(0, extent + 1, 3))})
    for begin, end in reversed(list(pairwise(cuts))):
        call_range(function, pointers, scalars, begin, end)


def call_range(
    function: Any, pointers: Sequence[Buffer | Array], scalars: Sequence[int], begin: int, end: int
) -> None:
    """Call a kernel on [begin, end)."""
    args: list[Any] = [
        p.pointer if isinstance(p, Buffer) else ctypes.c_void_p(p.ctypes.data) for p in pointers
    ]
    args += [ctypes.c_int32(s) for s in (*scalars, begin, end)]
    status = function(*args)
    assert status == 0


def layouts_of(shape: Sequence[int], lanes: int = 16) -> Mapping[str, Layout]:
    """A few layouts of one shape, padded ones included."""
    found = {"rows": Layout.rows(shape)}
    if len(shape) > 1:
        found["features"] = Layout.features(shape, lanes)
    if len(shape) == 4:
        found["planes"] = PlaneSpec(shape[3] + 1, 1, 1, 1, True).layout(shape, lanes)
    return found


def run_chain(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Any],
    outputs: Sequence[str],
    *,
    layout: str = "rows",
    opset: int = 23,
) -> tuple[list[Array], list[Array], GenericChain]:
    """Compile nodes with `legalize`, run them on strided buffers; (ours, ONNX Runtime's, the chain)."""
    arrays = {k: np.asarray(v) for k, v in constants.items()}
    graph = helper.make_graph(
        list(nodes),
        "case",
        [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in feeds.items()
        ],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [onnx.numpy_helper.from_array(v, k) for k, v in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = [np.asarray(w) for w in session.run(None, dict(feeds))]
    model = ir.from_proto(proto)
    for value, want in zip(model.graph.outputs, expected, strict=True):
        value.shape, value.dtype = ir.Shape(want.shape), ir.DataType.from_numpy(want.dtype)
    tensors = dict(feeds) | dict(zip(outputs, expected, strict=True))
    layouts = {n: layouts_of(t.shape).get(layout, Layout.rows(t.shape)) for n, t in tensors.items()}
    chain = legalize(list(model.graph), layouts, constants=arrays, lanes=LANES, name="case", opset=opset)
    buffers = {n: Buffer(layouts[n], t.shape, t.dtype, feeds.get(n)) for n, t in tensors.items()}
    buffers |= {t.name: Buffer(Layout.rows(t.shape), t.shape, t.dtype) for t in chain.temporaries}
    buffers |= {n: Buffer(Layout.rows(a.shape), a.shape, a.dtype, a) for n, a in chain.constants.items()}
    functions = load_kernels({c.symbol: c.make for c in chain.calls})
    for c in chain.calls:
        call(functions[c.symbol], [buffers[n] for n in (*c.inputs, *c.outputs)], (), c.extent)
    assert all(b.padding_intact() for b in buffers.values()), "a kernel wrote to padding"
    return [buffers[o].elements for o in outputs], expected, chain
