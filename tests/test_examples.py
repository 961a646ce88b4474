"""Every example runs, and the C program prints what Python computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsecc

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: object) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example(path: Path) -> None:
    assert run(sys.executable, path).strip()
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


def test_c_program(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(48, 64), torch.nn.ReLU(), torch.nn.Linear(64, 6)).eval()
    file, x = tmp_path / "m.onnx", np.random.default_rng(0).standard_normal((2, 48)).astype(np.float32)
    torch.onnx.export(module, (torch.zeros(2, 48),), file, dynamo=True, verbose=False)
    np.save(tmp_path / "x.npy", x)
    printed = run("sh", EXAMPLES / "04_c_library.sh", file, tmp_path / "x.npy").split()
    passes = "sparsify{pattern=4x1 sparsity=0.8}"
    artifact = sparsecc.compile(file, out=tmp_path / "m.scc", passes=passes, measure=False)
    with artifact.load() as session:
        ((name, expected),) = session.run({session.inputs[0].name: x}).items()
    assert printed[0] == name
    # the script measures and may choose other kernels, which add in another order
    found = np.array(printed[1:], np.float32).reshape(2, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
