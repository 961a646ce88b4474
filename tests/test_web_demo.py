"""The demo page in headless Chromium: what it shows is what ONNX Runtime computes on the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import web_demo
from benchmarks.browser import chromium
from benchmarks.photographs import photographs

BROKEN = "samples/broken.jpg"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As without npm: so few zeros by magnitude that the network still knows its classes."""
    out = tmp_path_factory.mktemp("web")
    web_demo.build(out, "unstructured", 0.1, fitted=False, peer=False)
    (out / BROKEN).write_bytes(b"no picture")
    return out


def test_page(page: Path) -> None:
    if chromium() is None:
        pytest.skip("Chromium is not installed")
    names = [*web_demo.SAMPLES[:3]]
    steps = [(way, f"samples/{name}") for way, name in zip(web_demo.WAYS, names, strict=True)]
    answer = web_demo.drive(page, [steps[0], ("file", BROKEN), *steps[1:]])
    refused = answer["found"].pop(1)
    assert refused["status"] == "broken.jpg is no picture that this browser can read"
    pictures = {picture.name: picture for picture in photographs()}
    for name, step in zip(names, answer["found"], strict=True):
        assert step["titles"] == ["sparsecc, unstructured, 10 % zeros"]
        assert step["status"] == "median of 31 runs in turns, one thread, WebAssembly"
        (difference,) = web_demo.differences(page, step)
        assert difference < 1e-5
        assert step["shown"][0][0] == pictures[name].label
        # the browser scales in another way than Pillow
        pixels = np.array(step["pixels"], np.float32).reshape(pictures[name].pixels.shape)
        assert np.abs(pixels - pictures[name].pixels).mean() < 0.05
    assert answer["notes"].endswith("Without ONNX Runtime Web beside it: It was left out of this build.")


def test_a_class_that_differs_is_told(page: Path) -> None:
    step = {
        "titles": ["page"],
        "path": "x",
        "pixels": np.zeros(3 * 224 * 224),
        "shown": [[-1]],
        "logits": [[]],
    }
    with pytest.raises(RuntimeError, match="page shows class -1 for x, expected "):
        web_demo.differences(page, step)


def test_without_npm(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert web_demo.install_peer(tmp_path) == "npm is not installed."
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    assert web_demo.install_peer(tmp_path) == "npm could not give onnxruntime-web 1.30.0."


def test_a_port_that_is_taken(page: Path) -> None:
    told: list[str] = []
    with web_demo.serving(page) as site:
        port = int(site.address.rstrip("/").rpartition(":")[2])
        assert web_demo.serve(page, port, told.append) == 2
    assert told == [f"port {port} cannot be served: Address already in use; choose another with --port"]
