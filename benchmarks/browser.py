"""Pages from a server on this machine, in headless Chromium or for whoever opens the address."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

TIMEOUT = 180
"""Seconds that a page has to answer."""
_COMMANDS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Site:
    """A server that runs.

    Attributes:
        address: of its first page, with a slash at the end.
        answers: bodies that pages have posted.
    """

    address: str
    answers: SimpleQueue[bytes]


def chromium() -> str | None:
    """The browser's path, where there is one."""
    return next((found for name in _COMMANDS if (found := shutil.which(name))), None)


@contextmanager
def serving(folder: Path, pages: Mapping[str, bytes] | None = None, port: int = 0) -> Generator[Site]:
    """A server for this machine only, until the block ends.

    Args:
        folder: whose files it serves.
        pages: path -> what it serves besides: HTML if the path ends with a slash, else bytes.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    answers: SimpleQueue[bytes] = SimpleQueue()
    others = pages or {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            data = others.get(self.path)
            if data is None:
                super().do_GET()
                return
            self.send_response(200)
            kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    Handler.extensions_map = {**Handler.extensions_map, ".mjs": "text/javascript"}
    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Site(f"http://127.0.0.1:{server.server_port}/", answers)
    finally:
        server.shutdown()
        server.server_close()


def answer_of(folder: Path, pages: Mapping[str, bytes], start: str = "/") -> bytes:
    """What the page at `start` posts first in headless Chromium.

    Raises:
        FileNotFoundError: there is no Chromium.
        TimeoutError: it posts nothing.
    """
    command = chromium()
    if command is None:
        raise FileNotFoundError(f"none of {', '.join(_COMMANDS)} is installed")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        serving(folder, pages) as site,
    ):
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
        browser = subprocess.Popen(
            [command, *flags, site.address + start.removeprefix("/")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return site.answers.get(timeout=TIMEOUT)
        except Empty:
            raise TimeoutError(f"{command} gave no answer in {TIMEOUT} s") from None
        finally:
            browser.terminate()
            browser.wait()
