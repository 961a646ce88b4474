"""`make coverage`: every network of the zoo through structural pruning without a hint, as one table.

Each network runs in a process of its own. Results go to benchmarks/results/coverage.json and from there to
docs/coverage.md; networks that are named are measured anew, the others keep their lines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.coverage_children import Failure, each
from benchmarks.coverage_page import page
from tests.zoo import MODELS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"
SEEDS = (0, 1, 2)
SECONDS = 900
GOOD = ("proved", "nothing prunable")
VERSIONS = ("sparsecc", "onnx", "onnxruntime", "torch", "transformers")
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the zoo; all by default")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time (%(default)s)")
    parser.add_argument(
        "--peers", action="store_true", help="Torch-Pruning too, where its version or the zoo changed"
    )
    parser.add_argument("--fresh-peers", action="store_true", help="Torch-Pruning on all networks again")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in MODELS]
    if unknown:
        parser.error(f"there is no network {', '.join(unknown)}; there are {', '.join(MODELS)}")
    names = args.names or list(MODELS)
    data = stored(args.results)
    preload()
    for name, result in each([(name, _measurement(name)) for name in names], args.jobs, SECONDS):
        row = failed(result) if isinstance(result, Failure) else result
        data["models"][name] = {"family": MODELS[name].family, **row}
        _write(data, args)
        print(f"{name:34} {summary(row)}", flush=True)
    if args.peers or args.fresh_peers:
        _run_peers(names, data, args)
    _write(data, args)
    bad = [name for name, row in data["models"].items() if row["outcome"] not in GOOD]
    print(f"wrote {args.out} and {args.results}; {len(bad)} not proved{': ' if bad else ''}{', '.join(bad)}")
    return 1 if bad else 0


def stored(path: Path) -> Json:
    """What an earlier run left, with today's versions."""
    data: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = data.get("models", {})
    return {
        "command": "make coverage",
        "seeds": list(SEEDS),
        "versions": {package: version(package) for package in VERSIONS},
        "models": {name: known[name] for name in MODELS if name in known},
        "peers": data.get("peers", {"key": "", "version": "", "models": {}}),
    }


def preload() -> None:
    """Import once what every child needs."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import torch
    import transformers  # noqa: F401  # pyright: ignore[reportUnusedImport]

    import benchmarks.coverage_checks  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from sparsecc.axes.rules.registry import rule_for

    rule_for("", "Add")
    torch.set_num_threads(1)


def _measurement(name: str) -> Callable[[], Json]:
    def measure() -> Json:
        from benchmarks.coverage_checks import cover

        found = cover(MODELS[name].build(), MODELS[name].inputs, SEEDS)
        return found.to_json()

    return measure


def failed(failure: Failure) -> Json:
    """The line of a network that gave no figures."""
    return {"outcome": "failed", "failure": failure.sentence, "trace": failure.trace}


def summary(row: Json) -> str:
    """A line for the terminal."""
    if "failure" in row:
        return f"FAILED {row['failure']} {row.get('trace', '')}"
    worst = max((verdict["difference"] for verdict in row["together"] + row["alone"]), default=0.0)
    harmless = len(row["minimality"]["harmless"])
    return (
        f"{row['outcome']:16} {row['nodes']:5} nodes {len(row['groups']):4} groups  "
        f"{row['share']:6.1%} prunable  difference {worst:.0e}  {harmless} harmless slices"
    )


def _run_peers(names: list[str], data: Json, args: argparse.Namespace) -> None:
    from benchmarks import coverage_peers as peers

    if not peers.installed():
        print("Torch-Pruning is not installed; its column stays as it was", file=sys.stderr)
        return
    key = _peers_key(peers.installed())
    if data["peers"]["key"] != key:
        data["peers"] = Json(key=key, version=peers.installed(), models=Json())
    known: Json = data["peers"]["models"]
    due = [name for name in names if args.fresh_peers or args.names or name not in known]
    tasks = [(name, _peer(name)) for name in due]
    for name, result in each(tasks, args.jobs, peers.SECONDS):
        row: Json = result
        if isinstance(result, Failure):
            outcome = "time limit" if result.kind == "time limit" else "crashed"
            row = {"outcome": outcome, "detail": result.sentence}
        known[name] = row
        print(f"{name:34} Torch-Pruning: {row['outcome']} {row['detail'][:120]}", flush=True)
        _write(data, args)


def _peer(name: str) -> Callable[[], Json]:
    def run() -> Json:
        from benchmarks.coverage_peers import torch_pruning

        return torch_pruning(name).to_json()

    return run


def _peers_key(peer: str) -> str:
    """Changes with the versions and the sources that Torch-Pruning's column depends on."""
    digest = hashlib.sha256(f"{peer} {version('torch')} {version('transformers')}".encode())
    for path in _sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources() -> Iterator[Path]:
    yield ROOT / "benchmarks" / "coverage_peers.py"
    yield from sorted((ROOT / "tests" / "zoo").glob("*.py"))


def _write(data: Json, args: argparse.Namespace) -> None:
    data["models"] = {name: data["models"][name] for name in MODELS if name in data["models"]}
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(data, indent=1, sort_keys=False) + "\n", encoding="utf-8")
    args.out.write_text(page(data), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
