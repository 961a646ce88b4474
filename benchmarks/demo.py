"""`make demo`: EfficientNet-lite0 with its real weights in 4x1 blocks, over a sweep of sparsities.

For each sparsity: artifact size, agreement with the dense network on real photographs, and latency beside
ONNX Runtime on the dense network, one core, batch 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

import sparsecc
from benchmarks.models import onnx_file
from benchmarks.photographs import Photograph, photographs
from sparsecc.peers import OnnxRuntime
from sparsecc.report.html import bytes_text
from sparsecc.side_by_side import side_by_side

MODEL = "efficientnet-lite0"
PATTERN = "4x1"
SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
RUNS = 50

CAUTION = """\
**Magnitude without fine-tuning costs accuracy, and on this compact network nearly all of it.** The weights
are zeroed once by their size and nothing is trained afterwards: read the agreement in the table before the
speed. Size and latency depend on where the zeros are and not on the values, so they hold for a network that
was fine-tuned with the same zeros; this demo does not train one."""


@dataclass(frozen=True)
class Row:
    """One sparsity."""

    sparsity: float
    zeros: float
    artifact_bytes: int
    agreement: int
    correct: int
    divergence: float
    milliseconds: float
    onnxruntime_milliseconds: float
    ratio: float
    difference: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the report (%(default)s)")
    out: Path = parser.parse_args().out
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    print(f"exporting {MODEL} with its real weights")
    dense_file = onnx_file(MODEL)
    pictures = photographs()
    dense = sparsecc.capture(dense_file)
    (name,) = (value.name or "" for value in dense.graph.inputs)
    rows: list[Row] = []
    reference: list[np.ndarray] = []
    for sparsity in SPARSITIES:
        print(
            f"{PATTERN} {sparsity:.0%}: sparsify, compile, run {len(pictures)} photographs, time", flush=True
        )
        row, outputs = _measure(dense, dense_file, name, sparsity, pictures, reference, out)
        reference = reference or outputs
        rows.append(row)
    _plot(rows, out / "plot.png", len(pictures))
    text = _report(rows, pictures, time.perf_counter() - started)
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "report.json").write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    print(f"\n{text}\nwrote {out / 'report.md'}, {out / 'plot.png'} and an artifact per sparsity")


def _measure(
    dense: ir.Model,
    dense_file: Path,
    name: str,
    sparsity: float,
    pictures: list[Photograph],
    reference: list[np.ndarray],
    out: Path,
) -> tuple[Row, list[np.ndarray]]:
    result = sparsecc.sparsify(dense, PATTERN, sparsity)
    path = out / f"{MODEL}-{round(100 * sparsity)}.scc"
    artifact = sparsecc.compile(result.model, out=path, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        sparse_file = Path(folder) / "sparse.onnx"
        ir.save(result.model, sparse_file)
        peer = OnnxRuntime(sparse_file, threads=1)
    outputs: list[np.ndarray] = []
    difference = 0.0
    with artifact.load(threads=1) as session:
        for picture in pictures:
            (logits,) = session.run({name: picture.pixels}).values()
            (expected,) = peer.run({name: picture.pixels}).values()
            difference = max(difference, float(np.abs(logits - expected).max() / np.abs(expected).max()))
            outputs.append(logits[0].astype(np.float64))
    against = reference or outputs
    times = side_by_side(path, dense_file, inputs={name: pictures[0].pixels}, runs=RUNS)
    assert times.theirs is not None and times.ratio is not None
    files = artifact.manifest.files
    row = Row(
        sparsity=sparsity,
        zeros=result.zeros,
        artifact_bytes=files["libmodel.so"].bytes + files["weights.bin"].bytes,
        agreement=sum(int(a.argmax() == b.argmax()) for a, b in zip(outputs, against, strict=True)),
        correct=sum(int(a.argmax() == p.label) for a, p in zip(outputs, pictures, strict=True)),
        divergence=float(np.mean([_divergence(b, a) for a, b in zip(outputs, against, strict=True)])),
        milliseconds=times.ours.median * 1e3,
        onnxruntime_milliseconds=times.theirs.median * 1e3,
        ratio=times.ratio,
        difference=difference,
    )
    return row, outputs


def _divergence(dense: np.ndarray, sparse: np.ndarray) -> float:
    """Kullback-Leibler divergence of the sparse network's class probabilities from the dense's, in nats."""
    p, q = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (dense, sparse))
    return float((np.exp(p) * (p - q)).sum())


def _report(rows: list[Row], pictures: list[Photograph], seconds: float) -> str:
    labelled = sum(picture.label is not None for picture in pictures)
    heads = (
        "sparsity", "zeros", "library + weights", f"top-1 same as dense, of {len(pictures)}",
        f"top-1 right, of {labelled}", "KL to dense", "sparsecc ms", "ONNX Runtime ms", "ratio",
        "numbers agree to",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    lines += [
        f"| {row.sparsity:.0%} | {row.zeros:.1%} | {bytes_text(row.artifact_bytes)} | {row.agreement} "
        f"| {row.correct} | {row.divergence:.2f} | {row.milliseconds:.2f} "
        f"| {row.onnxruntime_milliseconds:.2f} | {row.ratio:.2f} | {row.difference:.0e} |"
        for row in rows
    ]
    return "\n".join(
        [
            f"# {MODEL}, {PATTERN} blocks by magnitude",
            "",
            CAUTION,
            "",
            *lines,
            "",
            "![latency and agreement over sparsity](plot.png)",
            "",
            f"- Latency: median of {RUNS} runs, batch 1, fp32, one thread, both sides pinned to one CPU of "
            f"this machine ({_processor()}) in turns; ONNX Runtime always runs the dense network.",
            f"- Photographs: {labelled} with labels, {len(pictures) - labelled} without. One labelled "
            f"picture is {100 / labelled:.0f} points, so this is not ImageNet accuracy.",
            "- Numbers agree to: largest difference between the artifact and ONNX Runtime on the same "
            "sparse network, over the largest output, over all photographs.",
            "- Zeros: share in all weights of convolutions and the classifier; depthwise convolutions and "
            "small layers stay dense.",
            f"- The whole demo took {seconds:.0f} s.",
            "",
        ]
    )


def _processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def _plot(rows: list[Row], path: Path, pictures: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    percent = [100 * row.sparsity for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(
        percent,
        [row.onnxruntime_milliseconds for row in rows],
        "o--",
        color="#8a94a3",
        label="ONNX Runtime, dense",
    )
    left.plot(percent, [row.milliseconds for row in rows], "o-", color="#0f766e", label="sparsecc")
    left.set(xlabel="sparsity, %", ylabel="ms per image, one core", title="latency", ylim=(0, None))
    left.legend(frameon=False)
    right.plot(percent, [100 * row.agreement / pictures for row in rows], "o-", color="#b45309")
    right.set(
        xlabel="sparsity, %",
        ylabel="same top-1 as dense, %",
        title="agreement, not fine-tuned",
        ylim=(-3, 103),
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
