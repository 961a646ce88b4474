"""WebAssembly with 128-bit SIMD: one module without imports, for browsers, Node and wasmtime."""

from __future__ import annotations

from sparsecc.targets.machine import Machine, Platform

_WASM = Platform(
    "wasm32",
    "wasm32-unknown-unknown",
    "wasm32-wasi",
    library="model.wasm",
    form="wasm",
    runtime=("wasm", "unchecked"),
    abi=(("vector-width", 128),),
    extras=("model.mjs", "model.d.mts"),
)
MACHINES = (
    Machine(
        "wasm32",
        4,
        16,
        ("simd128",),
        _WASM,
        dot="simd128",
        attributes=("+simd128", "+bulk-memory", "+nontrapping-fptoint", "+sign-ext"),
        fma=1.0,
        fused=False,
        products="i32x4.dot_i16x8_s",
        verified="run in Node, wasmtime and headless Chromium, equal to ONNX Runtime",
    ),
)
