"""Functions in processes of their own: a crash, a hang or a full memory costs one line, not the run.

Children are forked, so that what the parent has imported is imported once.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

BYTES = 12 * 2**30
PATIENCE = 10


@dataclass(frozen=True)
class Failure:
    """Why a child gave no result.

    Attributes:
        kind: the exception's type, `time limit` or `process died`.
        reason: one line.
        trace: where the exception was raised; empty for the other kinds.
    """

    kind: str
    reason: str
    trace: str = ""

    @property
    def sentence(self) -> str:
        """Kind and reason in one line."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


@dataclass
class _Running:
    name: str
    process: BaseProcess
    receiver: Connection
    deadline: float


def each(
    tasks: Iterable[tuple[str, Callable[[], Any]]], jobs: int = 1, seconds: float = 600
) -> Iterator[tuple[str, Any]]:
    """Results by name as they come, each of its own process; a `Failure` where there is none.

    Args:
        tasks: names and functions; what they return must be picklable.
        jobs: how many at a time.
        seconds: of processor time, the limit of each; a child that sleeps has `PATIENCE` times as long.
    """
    waiting = iter(tasks)
    running: list[_Running] = []
    more = True
    try:
        while True:
            while more and len(running) < jobs:
                task = next(waiting, None)
                more = task is not None
                if task is not None:
                    running.append(_start(*task, seconds))
            if not running:
                return
            nearest = min(child.deadline for child in running) - time.monotonic()
            ready = wait([child.receiver for child in running], max(nearest, 0))
            for child in list(running):
                if child.receiver in ready:
                    result = _received(child)
                elif time.monotonic() >= child.deadline:
                    result = Failure("time limit", f"no result after {PATIENCE * seconds:g} s")
                else:
                    continue
                running.remove(child)
                _end(child)
                yield child.name, result
    finally:
        for child in running:
            _end(child)


def _start(name: str, function: Callable[[], Any], seconds: float) -> _Running:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(function, sender, seconds))
    process.start()
    sender.close()
    return _Running(name, process, receiver, time.monotonic() + PATIENCE * seconds)


def _received(child: _Running) -> Any:
    try:
        return child.receiver.recv()
    except EOFError:
        child.process.join()
        if child.process.exitcode == -signal.SIGXCPU:
            return Failure("time limit", "no result in its processor time")
        return Failure("process died", f"exit code {child.process.exitcode}")


def _end(child: _Running) -> None:
    child.process.kill()
    child.process.join()
    child.receiver.close()


def _child(function: Callable[[], Any], sender: Connection, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    limit = math.ceil(seconds)
    # a library of the parent may have taken or blocked what ends the child at its limit
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGXCPU})
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        result = function()
    except Exception as error:  # the child's whole purpose is to report whatever went wrong in it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        trace = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        result = Failure(type(error).__name__, lines[0][:400] if lines else "", trace)
    sender.send(result)
