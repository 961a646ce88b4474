"""Parses the command line, runs one verb and turns every way to fail into one line and an exit code.

0 done · 2 usage · 3 unsupported model · 4 a check failed · 70 our bug · 130 interrupted
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from sparsecc.errors import SparseccError

VERBS = (
    "capture",
    "groups",
    "prune",
    "sparsify",
    "distill",
    "quantize",
    "compress",
    "tune",
    "compile",
    "run",
    "bench",
    "eval",
    "sweep",
    "knee",
    "inspect",
    "targets",
    "passes",
    "ops",
)
COMPILE_PACKAGES = ("tvm", "networkx", "onnx", "onnx_ir", "onnxruntime", "onnxscript")
INTERNAL_ERROR = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

_DESCRIPTION = """\
Compile neural networks to sparse libraries that are faster than dense ones.

  sparsecc sparsify model.onnx -o sparse.onnx --pattern 4x1 --sparsity 0.8
  sparsecc compile sparse.onnx -o model.scc
  sparsecc run model.scc --input photo.npy -o result.npz
  sparsecc bench model.scc --model model.onnx
"""
_EPILOG = """\
exit codes: 0 done, 2 wrong usage, 3 unsupported model, 4 a check failed, 70 a bug, 130 interrupted
`sparsecc VERB --help` has the options and examples of each verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return its exit code."""
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        args = make_parser().parse_args(argv)
        if args.verb is None:
            make_parser().print_help()
            return 0
        code = int(importlib.import_module(f"sparsecc.cli.{args.verb}_verb").run(args))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help is 0, a usage error 2
        return stop.code if isinstance(stop.code, int) else 2
    except SparseccError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = "torch" if error.name == "torch" else "compile" if error.name in COMPILE_PACKAGES else ""
        if not extra:
            return _fail(_internal(error), INTERNAL_ERROR)
        return _fail(f"this needs the package {error.name}: run `pip install 'sparsecc[{extra}]'`", 2)
    except KeyboardInterrupt:
        exec("")  # CPython ends by the signal, handled or not, if the last text it executed was interrupted
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # nothing is left to be flushed at exit
        return BROKEN_PIPE
    except Exception as error:
        return _fail(_internal(error), INTERNAL_ERROR)


def make_parser() -> argparse.ArgumentParser:
    """The parser with all verbs; building it imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="sparsecc",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB")
    for verb in VERBS:
        importlib.import_module(f"sparsecc.cli.{verb}_verb").add(verbs)
    return parser


class _ShowVersion(argparse.Action):
    """--version, which looks the version up only where it is printed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version

        print(f"sparsecc {version('sparsecc')}")
        parser.exit()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> int:
    print(f"sparsecc: {' '.join(message.split())}", file=sys.stderr)
    return code


def _internal(error: Exception) -> str:
    """Write the traceback to a file; the line that names it."""
    text = "".join(traceback.format_exception(error))
    what = f"internal error, {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sparsecc-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n{text}")
    except OSError:
        return f"{what} (the traceback could not be written)"
    return f"{what}; please report it with the traceback in {file.name}"


if __name__ == "__main__":
    sys.exit(main())
