"""Times networks where a TVM RPC server runs: on a board, or on one of a fleet that a tracker lends."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.arrays import random_arrays
from sparsecc.artifact.manifest import TensorInfo
from sparsecc.artifact.pack import write_artifact
from sparsecc.errors import UsageError
from sparsecc.host import cpu_of
from sparsecc.measurement import BUDGET, Loaded, LocalRunner, Measured, measure
from sparsecc.report.compile_report import layer_lines

if TYPE_CHECKING:
    from sparsecc.arrays import Array
    from sparsecc.targets.machine import Platform
    from sparsecc.targets.plan import Plan

_ALIGNMENT = 64  # of inputs in rpc_profile.c
_WORD, _WORDS = 8, 1024  # bytes that one call of rpc_cpu.c answers, and how many it holds


class RpcRunner:
    """A `Runner` on a TVM RPC server.

    Args:
        address: HOST:PORT of the server, or of the tracker.
        key: what the tracker knows the machines as; "": the address is a server's.
        folder: for what is sent.
        target: what the machine is.
        compiler: C compiler command or "zig"; None looks for one.
        budget: seconds after which a comparison takes no further turns.

    Raises:
        UsageError: no such target or address, or nobody answers there.
        LoweringError: nothing can be linked for the target.
    """

    def __init__(
        self,
        address: str,
        key: str,
        folder: Path,
        *,
        target: str = "cpu",
        compiler: str | None = None,
        budget: float = BUDGET,
    ) -> None:
        from sparsecc.targets.remote import connected

        self._folder, self._compiler, self._budget = folder, compiler, budget
        self._where = f"{key} of the RPC tracker {address}" if key else f"the RPC server {address}"
        self._count = 0
        self._remote: Any = self._asked(partial(connected, address, key))
        self._cpu = str(cpu_of(self._cpuinfo(target)))

    @property
    def cpu(self) -> str:
        """See `Runner`."""
        return self._cpu

    def close(self) -> None:
        """Let others have the machine: a server answers one at a time, and the next one waits."""
        self._remote = None
        gc.collect()

    def load(self, plan: Plan) -> Loaded:
        """See `Runner`; the network runs on inputs at random, which are sent with it.

        Raises:
            UsageError: the machine cannot run it, or is gone.
            LoweringError: it cannot be linked.
        """
        from sparsecc.targets.driver import rpc_sources

        work = self._work()
        artifact = write_artifact(plan, work / "model.scc", embed=True, compiler=self._compiler)
        inputs = random_arrays([TensorInfo(s.name, s.dtype, s.shape) for s in plan.inputs])
        data = b"".join(_padded(inputs[spec.name].tobytes()) for spec in plan.inputs)
        files = {**rpc_sources(plan), "inputs.bin": data}
        name, module = self._sent(plan.platform, work, files, artifact)
        lines, steps = layer_lines(plan.report["layers"]), len(plan.steps)
        return _RemoteTrial(_RemoteSession(module, steps, self._asked), lines, lambda: self._removed(name))

    def measure(self, trials: Sequence[Loaded], inputs: Mapping[str, Array]) -> list[Measured]:
        """See `Runner`; `inputs` are not sent again."""
        return measure(trials, inputs, quantile=LocalRunner.QUANTILE, budget=self._budget)

    def _cpuinfo(self, target: str) -> str:
        from sparsecc.targets.driver import rpc_sources
        from sparsecc.targets.registry import cpu_for

        name, module = self._sent(cpu_for(target).platform, self._work(), rpc_sources(), None)
        ask, text = module["cpu_text"], b""
        while len(text) < _WORD * _WORDS and b"\n\n" not in text and not text.endswith(b"\0"):
            word = self._asked(partial(ask, len(text) // _WORD))
            text += int(word).to_bytes(_WORD, "little", signed=True)
        self._removed(name)
        return text.rstrip(b"\0").decode("ascii", "replace")

    def _work(self) -> Path:
        """A folder for the next library."""
        self._count += 1
        work = self._folder / f"remote{self._count}"
        work.mkdir()
        return work

    def _sent(
        self, platform: Platform, work: Path, files: Mapping[str, str | bytes], artifact: Path | None
    ) -> tuple[str, Any]:
        """Link a library, send it, and remove the folder; its name there, and what it is there."""
        from sparsecc.targets.linking import build_rpc_library

        library = build_rpc_library(platform, work, files, artifact, self._compiler)
        sent = library.rename(work / f"rpc{self._count}.so")
        self._asked(lambda: self._remote.upload(str(sent)))
        shutil.rmtree(work)
        return sent.name, self._asked(lambda: self._remote.load_module(sent.name))

    def _removed(self, name: str) -> None:
        self._asked(lambda: self._remote.remove(name))

    def _asked(self, question: Callable[[], Any]) -> Any:
        """The answer of the other side; what goes wrong there, or on the way, becomes one sentence."""
        try:
            return question()
        except UsageError:
            raise
        except Exception as error:  # TVM's errors have no common class
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(f"{self._where} failed: {lines[-1].strip()}") from error


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


class _RemoteSession:
    """A network on the other side, as `Timed` has it; inputs lie there already."""

    def __init__(self, module: Any, steps: int, asked: Callable[[Callable[[], Any]], Any]) -> None:
        self._call = {name: module[f"model_{name}"] for name in ("open", "run", "profile", "step", "close")}
        self._steps, self._asked = steps, asked
        self._done("open")

    def run(self, inputs: Mapping[str, Array]) -> None:
        """One run."""
        self._done("run", 1)

    def profile(self, inputs: Mapping[str, Array]) -> list[tuple[int, str, float]]:
        """One run; seconds of each step."""
        self._done("profile")
        times = [self._asked(partial(self._call["step"], index)) for index in range(self._steps)]
        return [(index, "", ns * 1e-9) for index, ns in enumerate(times)]

    def close(self) -> None:
        """Free the network's memory."""
        self._done("close")

    def _done(self, name: str, *arguments: int) -> None:
        status = self._asked(lambda: self._call[name](*arguments))
        if status != 0:
            raise UsageError(f"the network cannot run there: {name} ended with status {status} of model.h")


class _RemoteTrial:
    """See `Loaded`."""

    def __init__(self, session: _RemoteSession, layers: Any, remove: Callable[[], None]) -> None:
        self.session, self.layers, self._remove = session, layers, remove

    def close(self) -> None:
        """Free it, and remove what was sent."""
        self.session.close()
        self._remove()
