"""The linear layers of `make decode` in ggml, the tensor library of llama.cpp, called as llama.cpp calls it.

The graph is `benchmarks.decode.Chain`, operation by operation. Weights lie where llama.cpp puts them: those
of 4 bits in the buffer that repacks them for the CPU's own kernels. ggml rounds the activations of a
quantised product to 8 bits, 32 of them with one scale.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sparsecc.errors import UsageError, VerificationError

FORMATS = {"F32": 0, "Q4_0": 2, "Q8_0": 8}
"""Weights, as enum ggml_type has them."""
REPACKED = ("Q4_0",)
"""Those for which ggml has repacked kernels on x86-64."""
EPSILON = 1e-5
"""That of torch's layer_norm."""
_OPERATIONS = 4096
_CONTEXT_BYTES = 8 << 20


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_Log = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_SILENT = _Log(lambda level, text, data: None)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ggml_log_set": (None, _Log, c_void_p),
    "ggml_init": (c_void_p, _InitParams),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_add": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_mul": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_relu": (c_void_p, c_void_p, c_void_p),
    "ggml_concat": (c_void_p, c_void_p, c_void_p, c_void_p, c_int),
    "ggml_norm": (c_void_p, c_void_p, c_void_p, c_float),
    "ggml_new_graph_custom": (c_void_p, c_void_p, c_size_t, c_bool),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_nbytes": (c_size_t, c_void_p),
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
    "ggml_backend_get_device": (c_void_p, c_void_p),
    "ggml_backend_dev_backend_reg": (c_void_p, c_void_p),
    "ggml_backend_reg_get_proc_address": (c_void_p, c_void_p, c_char_p),
    "ggml_backend_get_default_buffer_type": (c_void_p, c_void_p),
    "ggml_backend_buft_name": (c_char_p, c_void_p),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, c_void_p, c_void_p),
    "ggml_backend_tensor_set": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_tensor_get": (None, c_void_p, c_void_p, c_size_t, c_size_t),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
}
"""What each function returns and takes (ggml, include/ggml.h and ggml-backend.h)."""


class _Library:
    """The functions of ggml in the package llama-cpp-python."""

    def __init__(self) -> None:
        spec = find_spec("llama_cpp")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError("llama.cpp is not installed: run `pip install llama-cpp-python`")
        folder = Path(spec.submodule_search_locations[0]) / "lib"
        names = ("libggml-base.so", "libggml-cpu.so")
        parts = [ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL) for name in names]
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(next(part for part in parts if hasattr(part, name)), name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"ggml's function {name} has no signature here")


class GgmlChain:
    """The network of `benchmarks.decode.Chain` on one thread.

    Args:
        layers: for each layer its weights q, k, v, o, gate, up and down, as ggml stores them: uint8
            [outputs, bytes of a row], or float32 [outputs, inputs].
        kind: of `FORMATS`.
        width: of the network's input.
        hidden: inputs of `down`.

    Raises:
        UsageError: llama.cpp is not installed.
    """

    def __init__(self, layers: Sequence[Sequence[np.ndarray]], kind: str, width: int, hidden: int) -> None:
        self._ggml = ggml = _Library()
        ggml.ggml_log_set(_SILENT, None)  # it would name every tensor
        self._backend = ggml.ggml_backend_cpu_init()
        ggml.ggml_backend_cpu_set_n_threads(self._backend, 1)
        plain = ggml.ggml_backend_get_default_buffer_type(self._backend)
        stored = self._context()
        sizes = (width, width, width, width, width, width, hidden)
        weights = [
            [
                ggml.ggml_new_tensor_2d(stored, FORMATS[kind], inputs, len(data))
                for inputs, data in zip(sizes, layer, strict=True)
            ]
            for layer in layers
        ]
        where = self._repacking() if kind in REPACKED else plain
        self.buffer: str = ggml.ggml_backend_buft_name(where).decode()
        ggml.ggml_backend_alloc_ctx_tensors_from_buft(stored, where)
        self.weights_bytes = 0
        for layer, tensors in zip(layers, weights, strict=True):
            for data, tensor in zip(layer, tensors, strict=True):
                self._set(tensor, data)
                self.weights_bytes += data.nbytes
        context = self._context()
        self._x = ggml.ggml_new_tensor_2d(context, FORMATS["F32"], width, 1)
        self._y = self._x
        for layer in weights:
            self._y = self._layer(context, self._y, layer)
        self._graph = ggml.ggml_new_graph_custom(context, _OPERATIONS, False)
        ggml.ggml_build_forward_expand(self._graph, self._y)
        ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, plain)
        self._width = width

    def _layer(self, context: int, x: int, weights: Sequence[int]) -> int:
        ggml = self._ggml
        q, k, v, o, gate, up, down = weights

        def times(weight: int, value: int) -> int:
            return ggml.ggml_mul_mat(context, weight, value)

        def normed(value: int) -> int:
            return ggml.ggml_norm(context, value, EPSILON)

        keys = times(k, x)
        beside = ggml.ggml_concat(context, ggml.ggml_concat(context, keys, times(v, x), 0), keys, 0)
        mixed = ggml.ggml_add(context, times(q, x), beside)
        x = normed(ggml.ggml_add(context, x, times(o, mixed)))
        inner = ggml.ggml_mul(context, ggml.ggml_relu(context, times(gate, x)), times(up, x))
        return normed(ggml.ggml_add(context, x, times(down, inner)))

    def run(self, x: np.ndarray) -> np.ndarray:
        """[1, width] in and out, float32."""
        self._set(self._x, x)
        self.step()
        y = np.empty((1, self._width), np.float32)
        self._ggml.ggml_backend_tensor_get(self._y, y.ctypes.data, 0, y.nbytes)
        return y

    def step(self) -> None:
        """Compute on the input of `run`.

        Raises:
            VerificationError: ggml failed.
        """
        if self._ggml.ggml_backend_graph_compute(self._backend, self._graph) != 0:
            raise VerificationError("ggml cannot compute the graph")

    def _context(self) -> int:
        """Room for the descriptions of tensors; their data lie in buffers."""
        return self._ggml.ggml_init(_InitParams(_CONTEXT_BYTES, None, True))

    def _set(self, tensor: int, data: np.ndarray) -> None:
        assert data.flags.c_contiguous
        assert self._ggml.ggml_nbytes(tensor) == data.nbytes
        self._ggml.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)

    def _repacking(self) -> int:
        """The buffer type that llama.cpp prefers for weights on the CPU."""
        ggml = self._ggml
        device = ggml.ggml_backend_get_device(self._backend)
        registry = ggml.ggml_backend_dev_backend_reg(device)
        address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(device)
        found: dict[bytes, int] = {}
        for kind in extra:
            if not kind:
                break
            found[ggml.ggml_backend_buft_name(kind)] = kind
        return found[b"CPU_REPACK"]
