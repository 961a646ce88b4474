"""Ways to run an artifact that this machine cannot load: emulators, Node, wasmtime and headless Chromium.

Each takes the inputs and gives the outputs by name, so that tests and `make targets` compare alike.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.browser import answer_of
from sparsecc.artifact.load import load, read_artifact
from sparsecc.artifact.manifest import Manifest
from sparsecc.artifact.wasm import WasmEngine
from sparsecc.targets.linking import build_program
from sparsecc.targets.registry import PLATFORMS

Array = npt.NDArray[Any]
Outputs = dict[str, Array]

_TIMEOUT = 180  # seconds for one run
_PLUGIN = Path(__file__).with_name("instructions.c")

# Reads all inputs from one buffer and returns all outputs in one.
_DRIVE = """
async function drive(module, bytes) {
    const arrays = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array };
    const model = await module.Model.load();
    const given = {};
    let start = 0;
    for (const tensor of module.inputs) {
        given[tensor.name] = new arrays[tensor.type](bytes.slice(start, start + tensor.bytes));
        start += tensor.bytes;
    }
    model.run(given);
    const begin = performance.now();
    const made = model.run(given);
    const milliseconds = performance.now() - begin;
    const out = new Uint8Array(module.outputs.reduce((sum, tensor) => sum + tensor.bytes, 0));
    let at = 0;
    for (const tensor of module.outputs) {
        out.set(new Uint8Array(made[tensor.name].buffer), at);
        at += tensor.bytes;
    }
    return [out, milliseconds];
}
"""
_NODE = """
import {{ readFileSync, writeFileSync }} from 'node:fs';
const module = await import({module});
const bytes = readFileSync({inputs});
const [out] = await drive(module, bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
writeFileSync({outputs}, out);
"""
_PAGE = """<!doctype html><meta charset="utf-8"><title>sparsecc</title><script type="module">
%s
let answer;
try {
    const module = await import('/model.mjs');
    const response = await fetch('/inputs.bin');
    [answer] = await drive(module, await response.arrayBuffer());
} catch (error) {
    answer = String(error);
}
await fetch('/done', { method: 'POST', body: answer });
</script>
"""


def emulated(path: Path, feeds: Mapping[str, Array], emulator: str = "") -> Outputs:
    """Under QEMU's user mode, with two threads."""
    with load(path, 2, emulator=emulator) as session:
        return session.run(feeds)


def in_wasmtime(path: Path, feeds: Mapping[str, Array]) -> Outputs:
    """In this process."""
    with load(path) as session:
        return session.run(feeds)


def in_node(path: Path, feeds: Mapping[str, Array]) -> Outputs:
    """As a program for Node would."""
    manifest, folder = read_artifact(path)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "inputs").write_bytes(_joined(manifest, feeds))
        words = {"module": (folder / "model.mjs").resolve().as_uri(), "inputs": work / "inputs"}
        quoted = {key: json.dumps(str(word)) for key, word in (*words.items(), ("outputs", work / "outputs"))}
        (work / "run.mjs").write_text(_DRIVE + _NODE.format(**quoted))
        subprocess.run(["node", str(work / "run.mjs")], check=True, timeout=_TIMEOUT)
        return _split(manifest, (work / "outputs").read_bytes())


def in_chromium(path: Path, feeds: Mapping[str, Array]) -> Outputs:
    """On a page of a headless browser, from a server on this machine."""
    manifest, folder = read_artifact(path)
    answer = answer_of(folder, {"/": (_PAGE % _DRIVE).encode(), "/inputs.bin": _joined(manifest, feeds)})
    expected = sum(np.dtype(spec.dtype).itemsize * int(np.prod(spec.shape)) for spec in manifest.outputs)
    if len(answer) != expected:
        raise RuntimeError(f"the page says: {answer.decode(errors='replace')}")
    return _split(manifest, answer)


RUNNERS: dict[str, tuple[str, Callable[[Path, Mapping[str, Array]], Outputs]]] = {
    "qemu-aarch64": ("arm64-linux", emulated),
    "qemu-arm": ("armv7-linux", emulated),
    "qemu-riscv64": ("riscv64-linux", emulated),
    "wasmtime": ("wasm32", in_wasmtime),
    "Node": ("wasm32", in_node),
    "Chromium": ("wasm32", in_chromium),
}
"""Name -> target of the artifacts, and what runs them."""


def instructions(path: Path, feeds: Mapping[str, Array], emulator: str = "") -> int:
    """Instructions that one run executes: the emulator's count, or WebAssembly's.

    Args:
        emulator: a command line; "" takes the platform's.

    Raises:
        RuntimeError: the emulator takes no plugins.
    """
    manifest, folder = read_artifact(path)
    arrays = [np.ascontiguousarray(feeds[spec.name]) for spec in manifest.inputs]
    if manifest.library.endswith(".wasm"):
        engine = WasmEngine(manifest, folder, counted=True)
        before = engine.executed()
        engine.run(arrays, [np.empty(spec.shape, spec.dtype) for spec in manifest.outputs])
        return engine.executed() - before
    platform = PLATFORMS[manifest.machine]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        plugin = work / "instructions.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", str(_PLUGIN), "-o", str(plugin)], check=True)
        program = build_program(platform, folder, work)
        (work / "inputs").write_bytes(_joined(manifest, feeds))
        words = [program, folder / "weights.bin", 1, work / "inputs", work / "outputs"]
        done = subprocess.run(
            [*(emulator or platform.emulator).split(), "-plugin", str(plugin), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
    count, _, unit = done.stderr.strip().splitlines()[-1].partition(" ")
    if done.returncode or unit != "instructions":
        raise RuntimeError(f"{platform.emulator}: {done.stderr.strip()}")
    return int(count)


def _joined(manifest: Manifest, feeds: Mapping[str, Array]) -> bytes:
    return b"".join(np.ascontiguousarray(feeds[spec.name]).tobytes() for spec in manifest.inputs)


def _split(manifest: Manifest, data: bytes) -> Outputs:
    found: Outputs = {}
    start = 0
    for spec in manifest.outputs:
        count = int(np.prod(spec.shape))
        found[spec.name] = np.frombuffer(data, spec.dtype, count, start).reshape(spec.shape)
        start += found[spec.name].nbytes
    return found
