"""`sparsecc compile`: a model becomes an artifact."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import (
    Verbs,
    add_budget,
    add_calibration,
    add_hooks,
    add_source,
    add_sparsity,
    add_verb,
    check_out,
    read_hooks,
    read_passes,
    read_shapes,
)
from sparsecc.cli.progress import Progress
from sparsecc.errors import UsageError

if TYPE_CHECKING:
    from sparsecc.compiler import Artifact

_DETAILS = """\
The artifact is a folder with libmodel.so, libmodel.a, model.h, the weights, a manifest and report.html; it
needs neither Python nor TVM to run. Each layer gets the kernel that is fastest for the zeros it has; where
dense is fastest it stays dense. An interrupted compile leaves nothing."""
_EXAMPLES = """\
  sparsecc compile sparse.onnx -o model.scc
  sparsecc compile model.onnx -o model.scc --shape x=1,3,224,224 --pattern 4x1 --sparsity 0.8
  sparsecc compile model.onnx -o model.scc --latency 0.5x --calibration data.npz
  sparsecc compile model.onnx -o model.scc --target x86-64-v3 --archive --embed
  sparsecc compile model.onnx -o model.scc --verify-each --dump-dir passes/"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "compile", "compile a model to an artifact", _DETAILS, _EXAMPLES)
    add_source(parser)
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("model.scc"), help="the artifact (%(default)s)"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace an artifact of that name")
    parser.add_argument(
        "--target", default="cpu", help="`sparsecc targets` lists them (%(default)s: this machine)"
    )
    parser.add_argument("--name", default="model", help="prefix of the library's C symbols (%(default)s)")
    parser.add_argument("--archive", action="store_true", help="write one file instead of a folder")
    parser.add_argument("--embed", action="store_true", help="put the weights into the library")
    parser.add_argument(
        "--no-measure", action="store_true", help="do not time the layers, trust the cost model"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--database", type=Path, metavar="FILE", help="what `sparsecc tune` measured (its own file)"
    )
    group.add_argument(
        "--cpu",
        default="",
        help="whose measurements, as the database has it: AuthenticAMD 25 (this machine's)",
    )
    group.add_argument("--no-database", action="store_true", help="choose kernels by the cost model alone")
    parser.add_argument("--cc", metavar="COMMAND", help="C compiler to link with, or zig")
    parser.add_argument(
        "--passes", default="", metavar="SPEC", help="passes to run first; `sparsecc passes` lists them"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    add_sparsity(parser)
    add_budget(parser, required=False)
    add_calibration(parser)
    add_hooks(parser)


def run(args: argparse.Namespace) -> int:
    """Compile, and sum up what was made."""
    from sparsecc.cli.compress_verb import compressed, save_plan, show
    from sparsecc.cli.source import read_model, read_source
    from sparsecc.compiler import compile

    shapes, passes = read_shapes(args.shape), read_passes(args)
    hooks = read_hooks(args)
    budget = any(share is not None for share in (args.latency, args.zeros, args.bytes))
    extra = (args.calibration, args.bits, args.patterns, args.widths, args.save_plan)
    if not budget and any(extra):
        raise UsageError(
            "--calibration, --bits, --patterns, --widths and --save-plan belong to --latency, --zeros "
            "or --bytes"
        )
    if budget and passes:
        raise UsageError("a budget chooses the zeros: leave --pattern, --sparsity and --passes out")
    if args.save_plan is not None:
        check_out(args.save_plan, force=args.force)
    source, inputs = (None, None) if budget else read_source(args.source)
    with Progress(quiet=args.quiet) as progress:
        result = None
        if budget:
            progress("capture", 0, 1)
            result = compressed(read_model(args.source, shapes), args, shapes, progress)
            source = result.model
        artifact = compile(
            source,
            args.target,
            args.out,
            example_inputs=inputs,
            shapes=shapes,
            passes=passes,
            name=args.name,
            archive=args.archive,
            embed=args.embed,
            overwrite=args.force,
            measure=not args.no_measure,
            database=False if args.no_database else args.database,
            cpu=args.cpu,
            compiler=args.cc,
            hooks=hooks,
            progress=progress,
        )
    if result is not None:
        save_plan(result, args)
    if not args.quiet:
        if result is not None:
            show(result)
        _summary(artifact)
    return 0


def _summary(artifact: Artifact) -> None:
    from sparsecc.artifact.manifest import SOURCES
    from sparsecc.report.html import bytes_text, seconds_text

    report, manifest = artifact.report, artifact.manifest
    sparse = sum(1 for layer in report.layers if "sparse" in layer.kernel)
    print(
        f"{artifact.path}: {', '.join(map(str, manifest.inputs))} -> {', '.join(map(str, manifest.outputs))}"
    )
    share = report.zeros / report.weights if report.weights else 0.0
    print(
        f"{share:.1%} of {report.weights} weights are zero; "
        f"{sparse} of {len(report.layers)} layers are sparse"
    )
    library = f"kernels {manifest.library}" if manifest.library in SOURCES else "library"
    print(
        f"{library} {bytes_text(manifest.files[manifest.library].bytes)}, "
        f"weights {bytes_text(manifest.weights_bytes)}, scratch memory {bytes_text(manifest.arena_bytes)}"
    )
    if report.measured_seconds and report.measured_dense_seconds:
        print(
            f"{seconds_text(report.measured_seconds)} on one core, "
            f"{seconds_text(report.measured_dense_seconds)} with dense kernels"
        )
    for note in report.notes:
        print(note)
    print(f"compiled in {sum(report.phases.values()):.1f} s; the report is report.html in the artifact")
