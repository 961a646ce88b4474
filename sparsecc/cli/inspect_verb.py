"""`sparsecc inspect`: shows an artifact, or the graph of an .onnx file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_verb
from sparsecc.cli.table import table

if TYPE_CHECKING:
    from sparsecc.artifact.manifest import Manifest

_DETAILS = """\
Every file is checked against the manifest first. For an .onnx file the text of its captured graph is printed,
with the pattern of every weight."""
_EXAMPLES = """\
  sparsecc inspect model.scc
  sparsecc inspect model.scc --json
  sparsecc inspect sparse.onnx"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "inspect", "show what is in an artifact", _DETAILS, _EXAMPLES)
    parser.add_argument("artifact", metavar="MODEL", help="an artifact, or an .onnx file")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--steps", action="store_true", help="list the kernel calls too")


def run(args: argparse.Namespace) -> int:
    """Read and print."""
    if args.artifact.endswith(".onnx"):
        from sparsecc.capture import capture
        from sparsecc.ir.dump import dump

        print(dump(capture(args.artifact)))
        return 0
    from sparsecc.artifact.load import read_artifact

    manifest, folder = read_artifact(args.artifact)
    if args.json:
        json.dump(json.loads(manifest.to_bytes()), sys.stdout, indent=1)
        print()
        return 0
    _print_facts(manifest, folder)
    _print_layers(manifest)
    if args.steps:
        print("\nsteps:")
        print(
            table(
                ("#number", "kernel", "layers"),
                ((str(i), s.kind, s.label) for i, s in enumerate(manifest.steps)),
            )
        )
    return 0


def _print_facts(manifest: Manifest, folder: Path) -> None:
    from sparsecc.artifact.manifest import SOURCES
    from sparsecc.cli.elf import needed_libraries
    from sparsecc.host import host_features, host_machine
    from sparsecc.report.html import bytes_text

    lacks = [feature for feature in manifest.features if feature not in host_features()]
    runs = "yes" if manifest.machine == host_machine() and not lacks else f"no, it lacks {', '.join(lacks)}"
    if manifest.library in SOURCES:
        runs = f"on a device with {manifest.machine}"
    facts = [
        ("name", manifest.name),
        ("inputs", ", ".join(map(str, manifest.inputs))),
        ("outputs", ", ".join(map(str, manifest.outputs))),
        ("target", f"{manifest.target}, {manifest.machine}"),
        ("needs", ", ".join(manifest.features)),
        *([("uses if there", ", ".join(manifest.optional_features))] if manifest.optional_features else []),
        ("runs here", runs),
        ("links", ", ".join(needed_libraries(folder / manifest.library)) or "nothing"),
        (
            "weights",
            bytes_text(manifest.weights_bytes) + (" in the library" if manifest.weights_embedded else ""),
        ),
        ("scratch memory", bytes_text(manifest.arena_bytes)),
        ("kernel calls", str(len(manifest.steps))),
        ("passes", manifest.passes),
        ("written by", f"sparsecc {manifest.sparsecc_version}, format {manifest.format_version}"),
    ]
    print("\n".join(f"{name:15} {value}" for name, value in facts))
    print("files:")
    rows = [(f"  {name}", bytes_text(info.bytes), info.sha256[:16]) for name, info in manifest.files.items()]
    print(table(("  name", "#size", "sha256"), rows))


def _print_layers(manifest: Manifest) -> None:
    from sparsecc.report.compile_report import report_of
    from sparsecc.report.html import seconds_text

    report = report_of(manifest.report)
    if report is None:
        return
    rows = (
        (
            layer.name,
            layer.node,
            layer.shape,
            layer.pattern,
            f"{layer.zeros:.1%}",
            layer.kernel,
            seconds_text(layer.measured_seconds or layer.predicted_seconds),
            seconds_text(layer.measured_dense_seconds or layer.predicted_dense_seconds),
            layer.reason,
        )
        for layer in report.layers
    )
    what = "nothing was measured, times are predictions"
    if report.measured_seconds and report.measured_dense_seconds:
        what = (
            f"{seconds_text(report.measured_seconds)} a run on one core, "
            f"{seconds_text(report.measured_dense_seconds)} with dense kernels"
        )
    print(f"\nlayers ({what}):")
    print(table(("layer", "node", "shape", "pattern", "#zeros", "kernel", "#time", "#dense", "why"), rows))
    for note in report.notes:
        print(note)
