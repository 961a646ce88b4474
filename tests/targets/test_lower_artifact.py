"""Lowered networks as real artifacts: threads, forbidden pages around the caller's memory, determinism."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Network
from stepping import TARGETS, V3, V4, assert_close, check_places, lowered, reference
from test_lower_attention import attention

from sparsecc.artifact.load import load
from sparsecc.artifact.pack import write_artifact

# Runs an artifact on inputs and outputs that touch pages nobody may access, in front or behind, with an arena
# full of NaN that is exactly as large as asked.
GUARDED = '''
import ctypes, json, mmap, os, sys
import numpy as np
folder, side, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
manifest = json.load(open(f"{folder}/manifest.json"))
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE = mmap.PAGESIZE

def guarded(nbytes, alignment=1):
    """Address of `nbytes` bytes that end (or begin) at a page without access; the other side has one too."""
    inner = -(-nbytes // PAGE) * PAGE
    base = libc.mmap(None, inner + 2 * PAGE, 3, 0x22, -1, 0)
    assert libc.mprotect(base, PAGE, 0) == 0 and libc.mprotect(base + PAGE + inner, PAGE, 0) == 0
    return base + PAGE if side == "front" else (base + PAGE + inner - nbytes) // alignment * alignment

class Options(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("weights", ctypes.c_void_p),
                ("weights_bytes", ctypes.c_size_t), ("arena", ctypes.c_void_p),
                ("arena_bytes", ctypes.c_size_t), ("threads", ctypes.c_int32)]

library = ctypes.CDLL(f"{folder}/libmodel.so")
size = manifest["arena_bytes"]
arena = guarded(size, 64)
ctypes.memset(arena, 0xFF, size)  # NaN
weights = open(f"{folder}/weights.bin", "rb").read()
packed = guarded(len(weights), 64)
ctypes.memmove(packed, weights, len(weights))
options = Options(None, packed, len(weights), arena, size, threads)
handle = ctypes.c_void_p()
assert library.test_create(ctypes.byref(options), ctypes.byref(handle)) == 0
feeds, inputs, outputs = np.load(sys.argv[4]), [], []
for spec in manifest["inputs"]:
    data = feeds[spec["name"]].tobytes()
    inputs.append(guarded(len(data)))
    ctypes.memmove(inputs[-1], data, len(data))
for spec in manifest["outputs"]:
    outputs.append(guarded(int(np.prod(spec["shape"])) * np.dtype(spec["dtype"]).itemsize))
def array(addresses): return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
for _ in range(2):
    assert library.test_run(handle, array(inputs), array(outputs)) == 0
library.test_destroy(handle)
found = {}
for spec, address in zip(manifest["outputs"], outputs):
    nbytes = int(np.prod(spec["shape"])) * np.dtype(spec["dtype"]).itemsize
    data = np.frombuffer(ctypes.string_at(address, nbytes), spec["dtype"])
    found[spec["name"]] = data.reshape(spec["shape"])
np.savez(sys.argv[5], **found)
'''


KERNELS: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((1, 1), {}),
    ((3, 3), {"pads": [1] * 4}),
    ((3, 3), {"strides": [2, 2]}),
]


def mixed_network() -> Network:
    """Convolutions of all kinds right on the inputs, attention, linear layers of few and many columns."""
    net = Network()
    for size in ((7, 7), (16, 34), (5, 3)):
        x = net.input(2, 3, *size)
        for kernel, attributes in KERNELS:
            net.output(net.conv(x, 3, 9, kernel, pattern="unstructured 50", **attributes))
        net.output(
            net.conv(x, 3, 3, (3, 3), group=3, pads=[1] * 4), net.add("MaxPool", x, kernel_shape=[2, 2])
        )
        net.output(
            net.conv(net.conv(x, 3, 9, (3, 3), pads=[1] * 4), 9, 3, (3, 3), strides=[2, 2], pattern="4x1 80")
        )
        net.output(
            net.add("Transpose", x, perm=[0, 2, 3, 1]), net.add("Softmax", x), net.add("ReduceMean", x)
        )
    tokens = net.input(3, 7, 10)
    net.output(attention(net, tokens, 3, 7, mask="additive"))
    for columns in (1, 3, 19):
        net.output(net.linear(net.input(columns, 21), 21, 37, pattern="unstructured 80"))
        net.output(net.add("MatMul", net.input(columns, 5), net.input(5, 11)))
    return net


@pytest.fixture(scope="module")
def network() -> Network:
    return mixed_network()


@pytest.fixture(scope="module", params=TARGETS)
def artifact(
    request: pytest.FixtureRequest, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    lowering, plan = lowered(network.proto(), request.param)
    check_places(lowering, plan)
    return write_artifact(plan, tmp_path_factory.mktemp("artifact") / "test.scc")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_compute_the_same(artifact: Path, network: Network, threads: int) -> None:
    expected = reference(network.proto(), network.feeds)
    with load(artifact, threads=threads) as session:
        for _ in range(3):
            found = session.run(network.feeds)
            for (name, ours), theirs in zip(found.items(), expected, strict=True):
                assert_close(ours, theirs, name)


@pytest.mark.parametrize("side", ["front", "behind"])
@pytest.mark.parametrize("threads", [1, 3])
def test_no_byte_outside_is_touched(
    artifact: Path, network: Network, side: str, threads: int, tmp_path: Path
) -> None:
    np.savez(tmp_path / "in.npz", **network.feeds)  # type: ignore[arg-type]
    command = [sys.executable, "-c", GUARDED, str(artifact), side, str(threads), "in.npz", "out.npz"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr}"
    found = np.load(tmp_path / "out.npz")
    for name, theirs in zip(found.files, reference(network.proto(), network.feeds), strict=True):
        assert_close(found[name], theirs, name)


@pytest.mark.parametrize("target", [V3, V4])
def test_two_builds_are_equal(network: Network, target: str) -> None:
    (_, first), (_, second) = (lowered(mixed_network().proto(), target) for _ in range(2))
    assert first.steps == second.steps and first.arena_bytes == second.arena_bytes
    assert first.objects == second.objects and first.symbols == second.symbols
    assert list(first.weights.parts()) == list(second.weights.parts())
    assert first.report == second.report
