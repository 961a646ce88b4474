"""WebAssembly artifacts in wasmtime, Node and a browser, and what they say to wrong input."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulators import compiled, on_x86
from machine_networks import close, codes, convolutions, transformer
from networks import Network
from stepping import reference

import sparsecc
from benchmarks.browser import chromium
from benchmarks.runners import RUNNERS
from sparsecc.compiler import Artifact
from sparsecc.errors import ArtifactError, UsageError

Array = npt.NDArray[Any]
TARGET = "wasm32"


def run(runner: str, artifact: Artifact, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs; skips where the runner is missing."""
    there = {
        "wasmtime": importlib.util.find_spec("wasmtime") is not None,
        "Node": shutil.which("node") is not None,
        "Chromium": chromium() is not None,
    }
    if not there[runner]:
        pytest.skip(f"{runner} is not installed")
    return RUNNERS[runner][1](artifact.path, feeds)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Network]:
    net = convolutions()
    return compiled(net.proto(), TARGET, tmp_path_factory.mktemp("wasm")), net


@pytest.mark.parametrize("runner", ["wasmtime", "Node", "Chromium"])
def test_convolutions(small: tuple[Artifact, Network], runner: str) -> None:
    artifact, net = small
    close(run(runner, artifact, net.feeds), reference(net.proto(), net.feeds))


def test_transformer(tmp_path: Path) -> None:
    net = transformer()
    proto = net.proto()
    close(run("wasmtime", compiled(proto, TARGET, tmp_path), net.feeds), reference(proto, net.feeds))


def test_codes_are_those_of_x86(tmp_path: Path) -> None:
    """WebAssembly has no multiply-add that rounds once, and takes the same codes."""
    net = codes()
    proto = net.proto()
    found = run("wasmtime", compiled(proto, TARGET, tmp_path), net.feeds)
    for name, array in on_x86(proto, net.feeds, tmp_path).items():
        np.testing.assert_array_equal(found[name], array)


def test_embedded_weights(tmp_path: Path) -> None:
    net = Network()
    net.output(net.conv(net.input(1, 8, 9, 9), 8, 16, (3, 3), pads=[1] * 4))
    proto = net.proto()
    artifact = compiled(proto, TARGET, tmp_path, embed=True)
    assert not (artifact.path / "weights.bin").exists()
    for runner in ("wasmtime", "Node"):
        close(run(runner, artifact, net.feeds), reference(proto, net.feeds))


def test_the_module_imports_nothing(small: tuple[Artifact, Network]) -> None:
    wasmtime: Any = pytest.importorskip("wasmtime")
    code = (small[0].path / "model.wasm").read_bytes()
    assert wasmtime.Module(wasmtime.Engine(), code).imports == []


def test_runs_repeat(small: tuple[Artifact, Network]) -> None:
    pytest.importorskip("wasmtime")
    artifact, net = small
    with artifact.load() as session:
        first, *others = [session.run(net.feeds) for _ in range(4)]
    assert all(np.array_equal(first[name], other[name]) for other in others for name in first)


# --- refusals -------------------------------------------------------------------------------------------


def test_a_session_refuses_what_wasm_has_not(small: tuple[Artifact, Network]) -> None:
    pytest.importorskip("wasmtime")
    artifact, net = small
    with pytest.raises(UsageError, match="a WebAssembly artifact runs on 1, found 2"):
        artifact.load(threads=2)
    with artifact.load() as session:
        with pytest.raises(UsageError, match="the module has no clock"):
            session.profile(net.feeds)
        with pytest.raises(ArtifactError, match="is missing"):
            session.run({})
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(net.feeds)


def test_without_wasmtime(small: tuple[Artifact, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsecc.artifact import wasm

    monkeypatch.setattr(wasm, "find_spec", lambda _: None)
    with pytest.raises(ArtifactError, match=r"run `pip install sparsecc\[wasm\]`"):
        small[0].load()


def test_wasmtime_without_simd(small: tuple[Artifact, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    wasmtime: Any = pytest.importorskip("wasmtime")

    def scalar() -> Any:
        made = config()
        made.wasm_relaxed_simd = False
        made.wasm_simd = False
        return made

    config = wasmtime.Config
    monkeypatch.setattr(wasmtime, "Config", scalar)
    with pytest.raises(ArtifactError, match=r"wasmtime cannot open .*model\.wasm: "):
        small[0].load()


SENTENCES = """
const real = WebAssembly.validate;
const { Model, inputs } = await import(process.argv[2]);
async function sentence(act) {
    try { await act(); } catch (error) { console.log(error.message); }
}
WebAssembly.validate = () => false;
await sentence(() => Model.load());
WebAssembly.validate = real;
const model = await Model.load();
const given = Object.fromEntries(inputs.map((t) => [t.name, new Float32Array(t.bytes / 4)]));
await sentence(() => model.run({ ...given, more: new Float32Array(1) }));
await sentence(() => model.run({ ...given, x0: new Float32Array(7) }));
await sentence(() => model.run({ ...given, x0: new Float64Array(3267) }));
await sentence(() => model.run({}));
console.log(Object.keys(model.run(given)).length);
"""


def test_sentences_of_the_module(small: tuple[Artifact, Network], tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    (tmp_path / "sentences.mjs").write_text(SENTENCES)
    module = (small[0].path / "model.mjs").as_uri()
    command = ["node", str(tmp_path / "sentences.mjs"), module]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "this engine has no WebAssembly SIMD, which the model needs: use a newer one",
        "there is no input more: inputs are x0, x1, x2",
        "input x0: expected 3267 numbers (1 x 3 x 33 x 33), found 7",
        "input x0: expected a Float32Array for float32",
        "input x0: expected a Float32Array for float32",
        "4",
    ]


def test_types(small: tuple[Artifact, Network]) -> None:
    text = (small[0].path / "model.d.mts").read_text()
    assert '"x0": Float32Array; // [1, 3, 33, 33]' in text
    assert "static load(url?: URL | string): Promise<Model>;" in text


def test_unknown_target(tmp_path: Path) -> None:
    net = Network()
    net.output(net.linear(net.input(2, 8), 8, 4))
    with pytest.raises(UsageError, match=r"no target 'wasm64'; targets are cpu, host, x86-64-v2, .*wasm32"):
        sparsecc.compile(net.proto(), "wasm64", tmp_path / "m.scc")
