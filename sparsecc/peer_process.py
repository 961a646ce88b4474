"""A peer in a process of its own: what it prints goes to a file, and if it crashes, only it ends.

Parent and child exchange lines of JSON over the child's standard input and output, and arrays as .npz files
in a folder. The child waits without spinning, so of several only the one that was asked runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

import sparsecc
from sparsecc.arrays import Array
from sparsecc.errors import CaptureError, SparseccError, UsageError, VerificationError
from sparsecc.peers import ENGINES, get_engine, open_peer
from sparsecc.timing import block

_ERRORS = {error.__name__: error for error in (CaptureError, UsageError, VerificationError)}
_PATIENCE = 10.0


class PeerProcess:
    """The parent's end; a context that ends the child.

    Args:
        name: of the peer.
        path: an .onnx file.
        threads: of a run. The child inherits the CPUs that this process may use.

    Raises:
        UsageError: there is no such peer, or it is not installed.
        CaptureError: it cannot read the file.
    """

    def __init__(self, name: str, path: str | os.PathLike[str], threads: int) -> None:
        self._title = get_engine(name).title
        self._folder = tempfile.TemporaryDirectory(prefix="sparsecc-peer-")
        words = [sys.executable, "-m", __name__, name, os.path.abspath(path), str(threads), self._folder.name]
        paths = [os.fspath(Path(sparsecc.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            self.facts: dict[str, object] = self._answer()
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; what `block` times are these inputs from now on.

        Raises:
            VerificationError: the peer refuses the inputs, or its process ended.
        """
        np.savez(Path(self._folder.name) / "inputs.npz", *inputs.values())
        names: list[str] = self._ask("run", list(inputs))
        with np.load(Path(self._folder.name) / "outputs.npz", allow_pickle=False) as found:
            return {name: found[f"arr_{index}"] for index, name in enumerate(names)}

    def block(self, warm_up: int, runs: int) -> list[float]:
        """Seconds of `runs` inferences after `warm_up` ones, on the inputs of `run`.

        Raises:
            VerificationError: its process ended.
        """
        return self._ask("block", [warm_up, runs])

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(OSError):
            _pipe(self._child.stdin).close()
        try:
            self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        _pipe(self._child.stdout).close()
        self._folder.cleanup()

    def _ask(self, verb: str, words: list[Any]) -> Any:
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._child.stdin).write(json.dumps([verb, words]) + "\n")
            _pipe(self._child.stdin).flush()
        return self._answer()

    def _answer(self) -> Any:
        line = _pipe(self._child.stdout).readline()
        if not line:
            code = self._child.wait()
            said = (Path(self._folder.name) / "log").read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text.strip() for text in reversed(said) if text.strip()), "it said nothing")
            raise VerificationError(f"{self._title} ended with exit code {code}; its last words: {last}")
        kind, content = json.loads(line)
        if kind in _ERRORS:
            raise _ERRORS[kind](content)
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _serve(name: str, path: str, threads: int, folder: Path) -> None:
    """The child: answer until the parent closes its end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def answer(act: Callable[[], object]) -> bool:
        try:
            reply: list[object] = ["done", act()]
        except SparseccError as error:
            reply = [type(error).__name__, str(error)]
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
        return reply[0] == "done"

    peers: list[Any] = []
    steps: list[Callable[[], object]] = []

    def load() -> dict[str, object]:
        peers.append(open_peer(name, path, threads))
        return {"version": ENGINES[name].version, **peers[0].facts}

    def run(names: list[str]) -> list[str]:
        with np.load(folder / "inputs.npz", allow_pickle=False) as found:
            inputs = {key: found[f"arr_{index}"] for index, key in enumerate(names)}
        outputs = peers[0].run(inputs)
        np.savez(folder / "outputs.npz", *outputs.values())
        steps[:] = [peers[0].bind(inputs)]
        return list(outputs)

    if not answer(load):
        return
    for line in sys.stdin:
        verb, words = json.loads(line)
        answer(lambda: run(words) if verb == "run" else block(steps[0], *words))  # noqa: B023 (called at once)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
