"""`sparsecc bench`: times an artifact, beside ONNX Runtime or other engines on a model where one is given."""

from __future__ import annotations

import argparse
import json
import sys

from sparsecc.cli.options import Verbs, add_threads, add_verb
from sparsecc.errors import UsageError

_DETAILS = """\
All sides run in alternating blocks, with the same number of threads on the same CPUs and the same inputs, in
float32. Give the dense .onnx file to compare speeds, the sparse one to compare numbers too. MNN has sparse
kernels of its own, for models with zeros enough; mnn-4x1 is the same for models of 4x1 blocks."""
_EXAMPLES = """\
  sparsecc bench model.scc
  sparsecc bench model.scc --model model.onnx --runs 100
  sparsecc bench model.scc --model sparse.onnx --threads 2 --json
  sparsecc bench model.scc --model sparse.onnx --peer openvino --peer mnn"""
_PEER = "in what: onnxruntime (the default), openvino, mnn or mnn-4x1 (may be repeated)"
MIN_RUNS = 30


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "bench", "time an artifact, beside other engines", _DETAILS, _EXAMPLES)
    parser.add_argument("artifact", metavar="MODEL.scc", help="the artifact")
    parser.add_argument("--model", metavar="FILE.onnx", help="what runs beside it")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME", help=_PEER)
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
    from sparsecc.peers import ENGINES
    from sparsecc.side_by_side import side_by_side

    if args.runs < MIN_RUNS:
        raise UsageError(
            f"--runs must be at least {MIN_RUNS} for a median that means something, found {args.runs}"
        )
    if args.peer and args.model is None:
        raise UsageError("--peer needs --model, the .onnx file that the peer runs")
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
        peers=list(dict.fromkeys(args.peer)) or ["onnxruntime"],
    )
    if args.json:
        json.dump(found.to_json(), sys.stdout, indent=1)
        print()
        return 0
    titles = {name: ENGINES[name].title for name in found.peers}
    sides = {"sparsecc": found.ours, **{titles[name]: peer.timing for name, peer in found.peers.items()}}
    for title, timing in sides.items():
        print(
            f"{title:{max(map(len, sides))}}  median {timing.median * 1e3:9.3f} ms   "
            f"fastest {timing.fastest * 1e3:9.3f} ms   10-90 % spread {timing.spread * 1e3:.3f} ms   "
            f"{timing.runs} runs"
        )
    for name, peer in found.peers.items():
        print(f"sparsecc / {titles[name]}  {peer.ratio:.3f}")
        for output, difference in peer.differences.items():
            print(
                f"output {output}: largest difference {difference.absolute:.3g}, "
                f"{difference.relative:.3g} of the largest value"
            )
    cpus = f"CPU {', '.join(map(str, found.cpus))}" if found.cpus else "not pinned"
    print(f"{args.threads} thread(s), {cpus}, seed {args.seed}")
    return 0
