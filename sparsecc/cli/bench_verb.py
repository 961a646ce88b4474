"""`sparsecc bench`: times an artifact, beside ONNX Runtime on a model where one is given."""

from __future__ import annotations

import argparse
import json
import sys

from sparsecc.cli.options import Verbs, add_threads, add_verb
from sparsecc.errors import UsageError

_DETAILS = """\
Both sides run in this process in alternating blocks, with the same number of threads on the same CPUs and the
same inputs. Give the dense .onnx file to compare speeds, the sparse one to compare numbers too."""
_EXAMPLES = """\
  sparsecc bench model.scc
  sparsecc bench model.scc --model model.onnx --runs 100
  sparsecc bench model.scc --model sparse.onnx --threads 2 --json"""
MIN_RUNS = 30


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "bench", "time an artifact, beside ONNX Runtime", _DETAILS, _EXAMPLES)
    parser.add_argument("artifact", metavar="MODEL.scc", help="the artifact")
    parser.add_argument("--model", metavar="FILE.onnx", help="what ONNX Runtime runs beside it")
    parser.add_argument(
        "-i", "--input", action="append", default=[], metavar="[NAME=]FILE", help="as for `run`"
    )
    parser.add_argument("--runs", type=int, default=50, help="timed runs, at least 30 (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs (%(default)s)")
    parser.add_argument("--no-pin", action="store_true", help="leave it to the system which CPUs run it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Time, compare and print."""
    from sparsecc.side_by_side import side_by_side

    if args.runs < MIN_RUNS:
        raise UsageError(
            f"--runs must be at least {MIN_RUNS} for a median that means something, found {args.runs}"
        )
    if args.seed < 0:
        raise UsageError(f"--seed must not be negative, found {args.seed}")
    found = side_by_side(
        args.artifact,
        args.model,
        files=args.input,
        runs=args.runs,
        threads=args.threads,
        seed=args.seed,
        pin=not args.no_pin,
    )
    if args.json:
        json.dump(found.to_json(), sys.stdout, indent=1)
        print()
        return 0
    sides = [("sparsecc", found.ours)] + ([] if found.theirs is None else [("ONNX Runtime", found.theirs)])
    for name, timing in sides:
        print(
            f"{name:12}  median {timing.median * 1e3:9.3f} ms   fastest {timing.fastest * 1e3:9.3f} ms   "
            f"10-90 % spread {timing.spread * 1e3:.3f} ms   {timing.runs} runs"
        )
    if found.ratio is not None:
        print(f"sparsecc / ONNX Runtime  {found.ratio:.3f}")
        for name, difference in found.differences.items():
            print(
                f"output {name}: largest difference {difference.absolute:.3g}, "
                f"{difference.relative:.3g} of the largest value"
            )
    cpus = f"CPU {', '.join(map(str, found.cpus))}" if found.cpus else "not pinned"
    print(f"{args.threads} thread(s), {cpus}, seed {args.seed}")
    return 0
