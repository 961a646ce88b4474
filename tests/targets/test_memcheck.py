"""No kernel touches memory that is not its own: unmapped pages around all it is given, and valgrind.

Valgrind has no AVX-512, so it runs the kernels of AVX2; it also tells when outputs depend on memory that
nothing was written to. `make memcheck` goes through every form of every layer, the tests through some.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from forms import KINDS, Nth
from networks import Network
from stepping import V3, V4, assert_close, lowered, reference

from sparsecc.artifact.pack import write_artifact
from sparsecc.host import host_features
from sparsecc.targets.registry import MACHINES

ALL = os.environ.get("SPARSECC_MEMCHECK") == "all"
EVERY = 1 if ALL else 7
"""Of a layer's forms, which are run."""
HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "c" / "run_model.c"
VBMI2 = f"{V4}+vnni+vbmi2"


def others() -> Network:
    """What has no weights, or other kernels for them."""
    net = Network()
    x = net.input(1, 6, 13, 11)
    y = net.conv(x, 6, 6, (3, 3), pads=[1] * 4, group=6)
    y = net.add("Relu", net.conv(y, 6, 6, (5, 5), pads=[2] * 4, strides=[2, 2], group=6))
    net.output(net.add("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    net.output(net.add("AveragePool", y, kernel_shape=[2, 2]), net.add("GlobalAveragePool", y))
    rows = net.input(3, 13, 37)
    net.output(net.add("Softmax", rows, axis=-1), net.add("Sigmoid", rows))
    net.output(net.add("LayerNormalization", rows, net.normal(37), net.normal(37), axis=-1))
    net.output(net.add("MatMul", rows, net.add("Transpose", rows, perm=[0, 2, 1])))
    net.output(net.add("ReduceMean", rows, keepdims=0), net.add("Transpose", rows, perm=[2, 0, 1]))
    return net


def depthwise_codes() -> Network:
    net = Network()
    x = net.coded(net.input(1, 6, 13, 11), zero=7)
    y = net.add("Conv", x, net.weight8(6, 1, 3, 3), net.bias8(6), group=6, pads=[1] * 4)
    y = net.add("MaxPool", net.coded(y, 2.0**-4), kernel_shape=[2, 2], strides=[2, 2])
    net.output(net.add("Relu", net.coded(y, 2.0**-4)))
    return net


NETWORKS = KINDS | {"others": others, "depthwise codes": depthwise_codes}


def programs(kind: str, target: str, folder: Path, source: Path) -> Iterator[tuple[Network, Path, str]]:
    """Each form's program, linked with its library, and what form it is."""
    net = NETWORKS[kind]()
    for i, array in enumerate(net.feeds.values()):
        array.tofile(folder / f"input{i}.bin")
    index, most = 0, 1
    while index < most:
        selector = Nth(index)
        _, plan = lowered(net.proto(), target, selector=selector)
        plan.name = "model"
        artifact = write_artifact(plan, folder / "m.scc", overwrite=True)
        program = folder / "program"
        libraries = (artifact / "libmodel.a", "-lm", "-lpthread")
        command = ["cc", "-g", "-O1", "-std=c11", "-Wall", "-Werror", f"-I{artifact}", source, *libraries]
        subprocess.run([*command, "-o", program], check=True)
        yield net, program, f"{target} {selector.taken}"
        index, most = index + EVERY, selector.most


def inputs_of(net: Network, folder: Path) -> list[Path]:
    return [folder / f"input{i}.bin" for i in range(len(net.feeds))]


@pytest.mark.parametrize("target", [V3, V4, VBMI2])
@pytest.mark.parametrize("kind", NETWORKS)
def test_unmapped_pages(kind: str, target: str, tmp_path: Path) -> None:
    if not host_features().issuperset(MACHINES[target].all_features):
        pytest.skip("this machine lacks what the target needs")
    for net, program, form in programs(kind, target, tmp_path, HERE / "guarded.c"):
        expected = reference(net.proto(), net.feeds)
        for side in ("behind", "before"):
            out = tmp_path / "outputs.bin"
            weights = tmp_path / "m.scc" / "weights.bin"
            done = subprocess.run([program, side, weights, out, *inputs_of(net, tmp_path)], check=False)
            assert done.returncode == 0, f"{side} {form}: exit code {done.returncode}"
            data = out.read_bytes()
            for wanted in expected:
                found = np.frombuffer(data[: wanted.nbytes], wanted.dtype).reshape(wanted.shape)
                assert_close(found, wanted, f"{side} {form}")
                data = data[wanted.nbytes :]
            assert not data


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize("kind", NETWORKS)
def test_valgrind(kind: str, tmp_path: Path) -> None:
    checker = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--track-fds=no"]
    for net, program, form in programs(kind, V3, tmp_path, EXAMPLE):
        arguments = [tmp_path / "m.scc" / "weights.bin", "1", *inputs_of(net, tmp_path)]
        done = subprocess.run([*checker, program, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{form}: {done.stderr[:2000]}"
        numbers = [float(word) for line in done.stdout.splitlines() for word in line.split()[1:]]
        wanted = np.concatenate([array.ravel() for array in reference(net.proto(), net.feeds)])
        assert_close(np.array(numbers, np.float32), wanted, form)
