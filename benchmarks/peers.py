"""`make peers`: whole networks beside ONNX Runtime, OpenVINO and MNN, dense and with the same zeros.

One core, one thread, batch 1, fp32 on all sides, in alternating blocks; every peer in a process of its own
that waits while another runs. A peer that fails, or whose numbers are not those of ONNX Runtime on the same
file, is an error and has no time. Results go to benchmarks/results/peers.json and .png, the table to
docs/peers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsecc
from benchmarks.bench import machine
from benchmarks.models import inputs_of, onnx_file
from sparsecc.arrays import Array
from sparsecc.errors import SparseccError, VerificationError
from sparsecc.peer_process import PeerProcess
from sparsecc.peers import ENGINES, OnnxRuntime
from sparsecc.side_by_side import compare
from sparsecc.timing import Side, interleave, pinned

RESULTS = Path(__file__).parent / "results" / "peers.json"
PAGE = Path(__file__).parents[1] / "docs" / "peers.md"
NETWORKS = {"mobilenet-v1": 60, "mobilenet-v2": 60, "resnet-50": 30, "bert-base": 30, "minilm": 60}
"""Name -> timed runs of each side."""
COLUMNS: dict[str, tuple[str, float] | None] = {
    "dense": None,
    "unstructured 80 %": ("unstructured", 0.8),
    "unstructured 90 %": ("unstructured", 0.9),
    "4x1 80 %": ("4x1", 0.8),
    "4x1 90 %": ("4x1", 0.9),
}
PEERS = (
    ("onnxruntime", "dense"),
    ("openvino", "dense"),
    ("mnn", "dense"),
    ("mnn", "unstructured 80 %"),
    ("mnn", "unstructured 90 %"),
    ("mnn-4x1", "4x1 80 %"),
    ("mnn-4x1", "4x1 90 %"),
)
"""Engines, and the zeros of the network that each gets. Only MNN has sparse kernels for fp32 here."""
AVX2 = "x86-64-v3"
"""A second target for all columns: MNN's wheel has no kernels for AVX-512."""
TOLERANCE = 1e-3
"""Largest difference to ONNX Runtime over the largest value."""
NOISY = 0.25
"""10th to 90th percentile over the median: from here on a time is not to be trusted."""
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(NETWORKS)}")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(NETWORKS)}")
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"networks": {}}
    networks: dict[str, Json] = before["networks"]
    for name in args.models or NETWORKS:
        with tempfile.TemporaryDirectory(prefix="sparsecc-peers-") as folder:
            networks[name] = _network(name, NETWORKS[name], Path(folder))
        print(f"{as_table({name: networks[name]})}\n", flush=True)
    packages = ("sparsecc", "apache-tvm", *sorted({engine.package for engine in ENGINES.values()}))
    data: Json = {
        "command": "make peers",
        "machine": machine(),
        "versions": {package: version(package) for package in packages},
        "networks": {name: networks[name] for name in NETWORKS if name in networks},
    }
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    draw(data["networks"], RESULTS.with_suffix(".png"))
    fill("make peers", as_text(data))
    failed = [f"{name} {error}" for name, found in networks.items() for error in errors(found)]
    unsure = [
        f"{name} {side}: too noisy, run again" for name, found in networks.items() for side in noisy(found)
    ]
    print("\n".join([*unsure, f"wrote {RESULTS} and {PAGE}; {len(failed)} failed", *failed]))
    return 1 if failed else 0


def _network(name: str, runs: int, folder: Path) -> Json:
    """One network: times of our artifacts and of all peers, from one interleaved run."""
    sources = {"dense": onnx_file(name)}
    model = sparsecc.capture(sources["dense"])
    names = [value.name or "" for value in model.graph.inputs]
    inputs: dict[str, Array] = dict(zip(names, inputs_of(name), strict=True))
    artifacts: dict[tuple[str, str], sparsecc.Artifact] = {}
    for column, options in COLUMNS.items():
        sparse = model
        if options is not None:
            sparse = sparsecc.sparsify(model, *options).model
            sources[column] = folder / f"{column}.onnx"
            ir.save(sparse, sources[column])
        for target in ("cpu", AVX2):
            out = folder / f"{column} {target}.scc"
            artifacts[target, column] = sparsecc.compile(sparse, target, out)
    ours: dict[str, Json] = {target: {column: {} for column in COLUMNS} for target in ("cpu", AVX2)}
    peers: list[Json] = [{"engine": engine, "zeros": column} for engine, column in PEERS]
    with pinned(1) as cpus, ExitStack() as stack:
        sides: dict[str, Callable[[], object] | Side] = {}
        rows: dict[str, Json] = {}
        for (target, column), artifact in artifacts.items():
            session = stack.enter_context(artifact.load(threads=1))
            row, key = ours[target][column], f"{target} {column}"
            row["difference"] = difference(session.run(inputs), sources[column], inputs)
            sides[key], rows[key] = lambda session=session: session.run(inputs), row
        for row in peers:
            key = f"{row['engine']} {row['zeros']}"
            try:
                process = stack.enter_context(PeerProcess(row["engine"], sources[row["zeros"]], 1))
                row.update(process.facts)
                reference = sources[row["zeros"]]
                if row["engine"].startswith("mnn"):
                    reference = _with_tanh(reference, folder / "tanh.onnx")
                    if row["zeros"] != "dense" and not row["sparse_layers"]:
                        raise VerificationError("MNN's converter stored no layer sparse")
                row["difference"] = difference(process.run(inputs), reference, inputs)
            except SparseccError as error:
                row["error"] = str(error)
                continue
            sides[key], rows[key] = process, row
        for key, timing in interleave(sides, runs).items():
            rows[key] |= asdict(timing)
    return {
        "cpus": cpus,
        "load_average": os.getloadavg()[0],
        "ours": ours["cpu"],
        "ours_avx2": ours[AVX2],
        "peers": peers,
    }


def difference(found: dict[str, Array], file: Path, inputs: dict[str, Array]) -> float:
    """To ONNX Runtime on the same network.

    Raises:
        VerificationError: it is above the tolerance.
    """
    differences = compare(found, OnnxRuntime(file, 1).run(inputs))
    largest = max(difference.relative for difference in differences.values())
    if not largest <= TOLERANCE:
        raise VerificationError(
            f"the outputs differ from ONNX Runtime's by {largest:.2g} of the largest value"
        )
    return largest


def _with_tanh(file: Path, out: Path) -> Path:
    """The network as MNN computes it: GELU by the tanh formula, whatever the model says."""
    model = ir.load(file)
    gelus = [node for node in model.graph if node.op_type == "Gelu"]
    if not gelus:
        return file
    for node in gelus:
        node.attributes["approximate"] = ir.AttrString("approximate", "tanh")
    ir.save(model, out)
    return out


def errors(found: Json) -> list[str]:
    """What failed in one network."""
    return [f"{row['engine']}, {row['zeros']}: {row['error']}" for row in found["peers"] if "error" in row]


def noisy(found: Json) -> list[str]:
    """Sides whose runs scatter so much that something else must have used the core."""
    rows = [(f"sparsecc, {zeros}", row) for zeros, row in found["ours"].items()]
    rows += [(f"sparsecc with AVX2, {zeros}", row) for zeros, row in found["ours_avx2"].items()]
    rows += [(f"{row['engine']}, {row['zeros']}", row) for row in found["peers"]]
    return [name for name, row in rows if row.get("spread", 0.0) > NOISY * row.get("median", 0.0)]


def median(found: Json, engine: str, zeros: str) -> float | None:
    """Seconds of a peer: with these zeros where it has sparse kernels, else dense; None where it failed."""
    times = {(row["engine"].partition("-")[0], row["zeros"]): row.get("median") for row in found["peers"]}
    return times[(engine, zeros)] if (engine, zeros) in times else times[(engine, "dense")]


def as_table(networks: dict[str, Json]) -> str:
    """Times in ms and ratios in Markdown: a row per network and zeros."""
    engines = ("onnxruntime", "openvino", "mnn")
    titles = [ENGINES[engine].title for engine in engines]
    heads = ["network", "zeros", "ours, ms", *(f"{title}, ms" for title in titles)]
    heads += [*(f"ours / {title}" for title in titles), "ours with AVX2 / MNN"]
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * 8}"]
    for name, found in networks.items():
        for zeros, row in found["ours"].items():
            times = [median(found, engine, zeros) for engine in engines]
            ours: float = row["median"]
            ms = ["error" if time is None else f"{time * 1e3:.2f}" for time in times]
            pairs = [*((ours, time) for time in times), (found["ours_avx2"][zeros]["median"], times[-1])]
            ratios = ["error" if theirs is None else f"{mine / theirs:.2f}" for mine, theirs in pairs]
            lines.append(f"| {' | '.join([name, zeros, f'{ours * 1e3:.2f}', *ms, *ratios])} |")
    return "\n".join(lines)


def as_text(data: Json) -> str:
    """The table, what made it, and what failed."""
    versions, processor = data["versions"], data["machine"]["processor"]
    made = [
        f"{ENGINES[name].title} {versions[ENGINES[name].package]}"
        for name in ("onnxruntime", "openvino", "mnn")
    ]
    failed = [f"- {name}, {error}" for name, found in data["networks"].items() for error in errors(found)]
    source = f"`make peers` on {processor}, {', '.join(made)}, TVM {versions['apache-tvm']}."
    return "\n".join([as_table(data["networks"]), "", source, *(["", *failed] if failed else [])])


def fill(command: str, text: str, page: Path = PAGE) -> None:
    """Put a text between the marks of a command in docs/peers.md."""
    begin, end = f"<!-- begin: {command} -->\n", f"<!-- end: {command} -->\n"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}{text}\n{end}{after}", encoding="utf-8")


def draw(networks: dict[str, Json], path: Path) -> None:
    """One panel per network: bars of ours and of MNN, lines of what is dense in any case."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(networks), figsize=(3.1 * len(networks), 3.8), layout="constrained", squeeze=False
    )
    for panel, (name, found) in zip(panels[0], networks.items(), strict=True):
        places = range(len(COLUMNS))
        ours = [found["ours"][zeros]["median"] * 1e3 for zeros in COLUMNS]
        mnn = [(median(found, "mnn", zeros) or 0.0) * 1e3 for zeros in COLUMNS]
        panel.bar([place - 0.2 for place in places], ours, 0.38, color="#0f766e", label="sparsecc")
        panel.bar([place + 0.2 for place in places], mnn, 0.38, color="#f0b27a", label="MNN, same zeros")
        for engine, dashes in (("onnxruntime", "--"), ("openvino", ":")):
            time = median(found, engine, "dense")
            if time is not None:
                label = f"{ENGINES[engine].title}, dense"
                panel.axhline(time * 1e3, color="#444444", linewidth=1, linestyle=dashes, label=label)
        panel.set_xticks(places, [zeros.replace("unstructured", "any") for zeros in COLUMNS], rotation=60)
        panel.set_title(name)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("ms: one core, batch 1, fp32")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
