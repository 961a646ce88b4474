"""`sparsecc run`: runs an artifact once, on files or on random inputs."""

from __future__ import annotations

import argparse
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_threads, add_verb, check_out
from sparsecc.cli.table import table
from sparsecc.errors import UsageError

if TYPE_CHECKING:
    from sparsecc.arrays import Array

_DETAILS = """\
Needs numpy only, and wasmtime for WebAssembly or pyopencl for OpenCL. Inputs must have
exactly the shapes and types that `sparsecc inspect` shows; inputs that no file gives are drawn at random.
With --emulator an artifact for Linux on another architecture runs in QEMU's user mode, which needs a C
compiler for that architecture."""
_EXAMPLES = """\
  sparsecc run model.scc
  sparsecc run model.scc --input photo.npy -o result.npz
  sparsecc run model.scc --input input_ids=ids.npy --input mask=mask.npy --threads 2
  sparsecc run arm64.scc --emulator
  sparsecc run gpu.scc --device 0"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "run", "run an artifact once", _DETAILS, _EXAMPLES)
    parser.add_argument("artifact", metavar="MODEL.scc", help="the artifact")
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help=".npy, or .npz with arrays by name",
    )
    parser.add_argument("--seed", type=int, default=0, help="of random inputs (%(default)s)")
    parser.add_argument("-o", "--out", type=Path, help="the .npz file to write the outputs to")
    parser.add_argument("-f", "--force", action="store_true", help="replace it if it exists")
    parser.add_argument(
        "--emulator",
        nargs="?",
        const="",
        metavar="COMMAND",
        help="run under an emulator, by default the usual one, such as qemu-aarch64",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="of an OpenCL or CUDA artifact, by a part of its name or by number"
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Run, write the outputs and sum them up."""
    from sparsecc.arrays import random_arrays, read_arrays
    from sparsecc.artifact.load import load

    if args.out is not None:
        check_out(args.out, force=args.force)
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, found {args.seed}")
    with load(args.artifact, args.threads, emulator=args.emulator, device=args.device) as session:
        given = read_arrays(args.input, session.inputs)
        drawn = [spec for spec in session.inputs if spec.name not in given]
        inputs = {**given, **random_arrays(drawn, args.seed)}
        start = time.perf_counter()
        outputs = session.run(inputs)
        seconds = time.perf_counter() - start
    for spec in drawn:
        print(f"input {spec}: random, seed {args.seed}")
    rows = [
        (name, array.dtype.name, str(list(array.shape)), *_numbers(array)) for name, array in outputs.items()
    ]
    print(table(("output", "type", "shape", "#least", "#mean", "#largest", "#at"), rows))
    print(f"one run with {args.threads} thread(s): {seconds * 1e3:.3f} ms, the first, so `bench` is lower")
    if args.out is not None:
        _write(args.out, outputs)
        print(f"wrote {args.out}")
    return 0


def _numbers(array: Array) -> tuple[str, str, str, str]:
    """Least, mean and largest value, and the flat index of the largest."""
    if array.size == 0:
        return ("", "", "", "")
    return (f"{array.min():.6g}", f"{array.mean():.6g}", f"{array.max():.6g}", str(int(array.argmax())))


def _write(path: Path, outputs: dict[str, Array]) -> None:
    import numpy as np

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.npz")
    try:
        with temporary.open("xb") as file:
            np.savez(file, allow_pickle=False, **outputs)
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
