"""`sparsecc tune`: measures forms of kernels in a network and keeps what it found for `compile`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_source, add_sparsity, add_verb, read_passes, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import table
from sparsecc.errors import UsageError

if TYPE_CHECKING:
    from sparsecc.measurement import Runner
    from sparsecc.tuner import TuneResult

TRIALS = 8
_DETAILS = """\
A cost model chooses the form of each layer's kernel: the height and width of its tiles, the length of its
chunks, sparse or dense. This measures the forms that it thinks best, in the network itself and on one core
of this machine, and adds their times to a database: a file of JSON lines, by default one that `sparsecc
compile` uses without being asked to. A layer is found there by its shape and its zeros; other layers of that
shape with such shares of zeros profit too. Nothing that is in the database is measured again, so Ctrl-C
loses no more than the variant that is running, and the same command goes on from there. Databases are merged
with `cat`. With --rpc all of that happens where a TVM RPC server runs: on a board, whose processor the
measurements are recorded for, or on one that a tracker lends; `compile --cpu` chooses by them."""
_EXAMPLES = """\
  sparsecc tune sparse.onnx
  sparsecc tune model.onnx --pattern 4x1 --sparsity 0.8 --trials 12 --budget 600
  sparsecc tune sparse.onnx --database measured.jsonl
  sparsecc tune sparse.onnx --target arm64-linux --rpc board:9090 --database board.jsonl
  sparsecc compile sparse.onnx -o model.scc --database measured.jsonl"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    summary = "measure which kernels are fastest for a model's layers"
    parser = add_verb(verbs, "tune", summary, _DETAILS, _EXAMPLES)
    add_source(parser)
    parser.add_argument(
        "--target", default="cpu", help="`sparsecc targets` lists them (%(default)s: this machine)"
    )
    parser.add_argument(
        "--database", type=Path, metavar="FILE", help="what to add to (tuning.jsonl beside the kernel cache)"
    )
    parser.add_argument(
        "--trials", type=int, default=TRIALS, metavar="N", help="forms of each layer (%(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="begin nothing after that time (no limit)"
    )
    parser.add_argument(
        "--rpc", metavar="HOST:PORT", help="measure on a TVM RPC server (python -m tvm.exec.rpc_server)"
    )
    parser.add_argument(
        "--rpc-key", default="", metavar="KEY", help="--rpc is a tracker, which lends machines of that key"
    )
    parser.add_argument("--cc", metavar="COMMAND", help="C compiler to link with, or zig")
    parser.add_argument(
        "--passes", default="", metavar="SPEC", help="passes to run first; `sparsecc passes` lists them"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    add_sparsity(parser)


def run(args: argparse.Namespace) -> int:
    """Tune, and show what became of each layer."""
    from sparsecc.cli.source import read_source
    from sparsecc.tuner import tune

    if args.rpc_key and not args.rpc:
        raise UsageError("--rpc-key belongs to a tracker: name it with --rpc HOST:PORT")

    shapes, passes = read_shapes(args.shape), read_passes(args)
    source, inputs = read_source(args.source)
    try:
        with Progress(quiet=args.quiet) as progress, _runner(args, progress) as runner:
            result = tune(
                source,
                args.target,
                example_inputs=inputs,
                shapes=shapes,
                passes=passes,
                database=args.database,
                trials=args.trials,
                budget=args.budget,
                compiler=args.cc,
                runner=runner,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("what was measured is kept: the same command goes on from there", file=sys.stderr)
        raise
    if not args.quiet:
        _summary(result)
    return 0


@contextmanager
def _runner(args: argparse.Namespace, progress: Progress) -> Generator[Runner | None]:
    """What `--rpc` names; nothing means this machine."""
    if not args.rpc:
        yield None
        return
    from sparsecc.rpc import RpcRunner

    phase = f"wait for {args.rpc_key or 'the machine'} at {args.rpc}"
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
        progress(phase, 0, 1)
        made = RpcRunner(args.rpc, args.rpc_key, Path(folder), target=args.target, compiler=args.cc)
        progress(phase, 1, 1)
        with closing(made):
            yield made


def _summary(result: TuneResult) -> None:
    from sparsecc.report.html import seconds_text

    rows = [
        (
            layer.name,
            layer.shape,
            layer.pattern,
            layer.form,
            seconds_text(layer.seconds),
            "the cost model's" if layer.form == layer.model_form else layer.model_form,
            f"{layer.gain:.2f}",
            str(layer.forms),
        )
        for layer in result.layers
    ]
    heads = ("layer", "shape", "pattern", "fastest form", "#time", "instead of", "#gain", "#forms")
    if rows:
        print(table(heads, rows))
    else:
        print("there is no layer with kernels to choose from")
    print(f"\n{result.measured} measurements added to {result.database}")
    if result.missing:
        print(f"{result.missing} forms are left to measure: the same command goes on from there")
    if result.seconds and result.model_seconds:
        print(
            f"{seconds_text(result.model_seconds)} on one core as the cost model chooses, "
            f"{seconds_text(result.seconds)} with the fastest forms"
        )
