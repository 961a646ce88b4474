"""Tuning on a TVM RPC server, alone and behind a tracker; both run here, as processes of their own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from networks import Network
from tvm import rpc

import sparsecc
from sparsecc.artifact.pack import write_artifact
from sparsecc.compiler import build_plan, prepare
from sparsecc.errors import LoweringError, UsageError
from sparsecc.host import cpu_of, host_cpu
from sparsecc.rpc import RpcRunner
from sparsecc.targets.driver import rpc_sources
from sparsecc.targets.linking import build_rpc_library
from sparsecc.targets.registry import cpu_for
from sparsecc.tuning.database import read_records

PATIENCE = 60.0
KEY = "board"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(module: str, port: int, *more: str) -> Generator[str]:
    """A process that listens on the port; its address."""
    ports = ("--port", str(port), "--port-end", str(port + 1))
    words = [sys.executable, "-m", module, "--host", "127.0.0.1", *ports, *more]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        assert process.poll() is None, f"{module} ended"
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def network() -> Network:
    net = Network()
    net.output(net.conv(net.add("Relu", net.conv(net.input(1, 16, 14, 14), 16, 32, (1, 1))), 32, 32, (1, 1)))
    return net


def test_tune_on_a_server(tmp_path: Path) -> None:
    """All forms are measured there and recorded for its CPU; what compiles for that CPU finds them."""
    model, database = network().proto(), tmp_path / "board.jsonl"
    with running("tvm.exec.rpc_server", free_port(), "--no-fork") as address:
        with closing(RpcRunner(address, "", tmp_path)) as runner:
            assert runner.cpu == str(host_cpu())
            found = sparsecc.tune(model, database=database, trials=3, runner=runner)
        with closing(RpcRunner(address, "", tmp_path)) as runner:
            again = sparsecc.tune(model, database=database, trials=3, runner=runner)
    assert found.measured >= 4 and again.measured == 0
    assert all(layer.forms >= 2 and layer.seconds > 0 for layer in found.layers)
    assert {record.cpu for record in read_records(database)} == {str(host_cpu())}
    assert not list(tmp_path.glob("remote*")), "what was sent is still here"

    def reasons(cpu: str) -> set[bool]:
        out = tmp_path / "model.scc"
        made = sparsecc.compile(model, out=out, overwrite=True, measure=False, database=database, cpu=cpu)
        return {"measured fastest" in layer.reason for layer in made.report.layers}

    assert reasons("") == reasons(str(host_cpu())) == {True}
    assert reasons("Other 1") == {False}


def test_a_tracker_lends_a_machine(tmp_path: Path) -> None:
    port = free_port()
    with running("tvm.exec.rpc_tracker", port) as tracker:
        more = ("--tracker", tracker, "--key", KEY)
        with running("tvm.exec.rpc_server", free_port(), *more):
            client = rpc.connect_tracker("127.0.0.1", port)
            end = time.monotonic() + PATIENCE
            while KEY not in client.text_summary() and time.monotonic() < end:
                time.sleep(0.1)
            with closing(RpcRunner(tracker, KEY, tmp_path)) as runner:
                model, database = network().proto(), tmp_path / "t.jsonl"
                found = sparsecc.tune(model, database=database, trials=2, runner=runner)
    assert found.measured >= 2


def test_what_boards_get(tmp_path: Path) -> None:
    """The network of another machine in one library; other systems than Linux are refused."""
    model = prepare(network().proto())
    plan = build_plan(model, target="arm64-linux")
    artifact = write_artifact(plan, tmp_path / "model.scc", embed=True)
    files = {**rpc_sources(plan), "inputs.bin": bytes(16 * 14 * 14 * 4)}
    made = build_rpc_library(plan.platform, tmp_path, files, artifact).read_bytes()
    assert made[:4] == b"\x7fELF" and int.from_bytes(made[18:20], "little") == 183  # EM_AARCH64
    assert b"__tvm_ffi_model_profile" in made
    android = cpu_for("arm64-android").platform
    with pytest.raises(LoweringError, match="cannot be timed on a TVM RPC server"):
        build_rpc_library(android, tmp_path, rpc_sources())


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected HOST:PORT of an RPC server, found 'board'"):
        RpcRunner("board", "", tmp_path)
    with pytest.raises(UsageError, match=r"the RPC server 127\.0\.0\.1:\d+ failed: "):
        RpcRunner(f"127.0.0.1:{free_port()}", "", tmp_path)


def test_cpu_of_a_board() -> None:
    text = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0b\n"
    assert str(cpu_of(text)) == "0x41 8.0xd0b ?"
    assert str(cpu_of("")) == "? ?.? ?"
