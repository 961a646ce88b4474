"""Progress on standard error: one line that is rewritten on a terminal, one line per phase elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO


class Progress:
    """Call it with a phase, how much is done and how much there is; use it as a context manager."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._live = not quiet and self._stream.isatty()
        self._quiet = quiet
        self._phase = ""
        self._told: set[str] = set()
        self._shown = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self._quiet:
            return
        now = time.monotonic()
        if self._live:
            if phase != self._phase or done == total or now - self._shown > 0.1:
                count = f" {done}/{total}" if total > 1 else ""
                self._stream.write(f"\r\x1b[K{phase}{count}")
                self._stream.flush()
                self._shown = now
        elif phase not in self._told and total == 1:
            self._told.add(phase)
            self._stream.write(f"{phase}\n")
            self._stream.flush()
        self._phase = phase

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._phase:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
