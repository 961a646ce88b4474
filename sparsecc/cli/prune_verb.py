"""`sparsecc prune`: deletes channels, heads and features and writes a smaller .onnx file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_source, add_verb, check_out, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.source import LARGEST_SINGLE_FILE
from sparsecc.cli.table import table
from sparsecc.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.oracle import OracleResult
    from sparsecc.passes.criteria import Calibration
    from sparsecc.pruner import PruneResult

_DETAILS = """\
Whole slices go from every layer that shares them (`sparsecc groups` lists them), so the result is an ordinary
smaller network that any runtime runs faster. Nothing is trained: fine-tune it afterwards. The result is checked
against the original with the same slices zeroed, unless --no-verify is given."""
_EXAMPLES = """\
  sparsecc prune model.onnx -o smaller.onnx --ratio 0.3
  sparsecc prune model.onnx -o smaller.onnx --target flops=0.5 --scope global --skip '*.heads'
  sparsecc prune model.onnx -o smaller.onnx --target latency=0.6 --round-to 16
  sparsecc prune model.onnx -o smaller.onnx --criterion taylor --data batch0.npz --data batch1.npz
  sparsecc prune train.py:make_model -o smaller.onnx --ratio 0.5 --save-plan plan.json
  sparsecc prune retrained.onnx -o smaller.onnx --plan plan.json"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs, "prune", "delete the channels, heads and features that matter least", _DETAILS, _EXAMPLES
    )
    add_source(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .onnx file to write")
    parser.add_argument("-f", "--force", action="store_true", help="replace it, and the plan, if they exist")
    much = parser.add_argument_group("how much (by default --ratio 0.5)")
    much.add_argument("--ratio", type=float, metavar="SHARE", help="share of the indices that goes")
    much.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=SHARE",
        help="share of the dense model's parameters, flops, bytes, latency (measured here) or "
        "predicted-latency that stays (the first three may be combined)",
    )
    much.add_argument("--plan", type=Path, metavar="FILE", help="delete what a saved plan deletes")
    much.add_argument("--iterations", type=int, metavar="N", help="score anew after each of N parts (1)")
    _add_choice(parser)
    parser.add_argument("--save-plan", type=Path, metavar="FILE", help="write what stays as JSON")
    parser.add_argument("--no-verify", action="store_true", help="leave out the check against the original")
    parser.add_argument("--machine", default="cpu", metavar="TARGET", help="of a latency (%(default)s)")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which")
    group.add_argument("--criterion", metavar="NAME", help="what says how much an index matters (l2)")
    group.add_argument("--aggregation", choices=("mean", "sum", "max"), help="of a group's parameters (mean)")
    group.add_argument(
        "--normalization", choices=("mean", "none", "max", "sum", "l2"), help="between groups (mean)"
    )
    group.add_argument(
        "--scope", choices=("local", "global"), help="each group alike, or the least scores of all (local)"
    )
    group.add_argument("--round-to", type=int, metavar="N", help="keep multiples of N indices (1)")
    group.add_argument("--largest", type=float, metavar="SHARE", help="of a group that may go (0.9)")
    group.add_argument(
        "--bound",
        action="append",
        default=[],
        metavar="GROUPS=SHARE",
        help="share that may go of groups by name, glob or kind (may be repeated, the first that fits holds)",
    )
    group.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GROUPS",
        help="name, glob or kind; all others stay whole",
    )
    group.add_argument(
        "--skip", action="append", default=[], metavar="GROUPS", help="name, glob or kind of what stays whole"
    )
    group.add_argument(
        "--data",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help=".npz with one batch by input name, and `target` if there is one (may be repeated)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of random choices (0)")


def run(args: argparse.Namespace) -> int:
    """Prune, check, write, and show what went."""
    from sparsecc.cli.source import read_model, write_model

    for path in (args.out, args.save_plan):
        if path is not None:
            check_out(path, force=args.force)
    _check_plan_alone(args)
    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes, foreign_ops=True)
        result = _pruned(args, model, progress)
        checked: OracleResult | None = None
        if not args.no_verify and result.before.bytes <= LARGEST_SINGLE_FILE:
            from sparsecc.pruner import verify

            progress("verify", 0, 1)
            checked = verify(model, result)
        progress("write", 0, 1)
        size = write_model(result.model, args.out)
        if args.save_plan is not None:
            result.plan.save(args.save_plan)
    _print(result, checked)
    print(f"{args.out}: {size} bytes")
    if args.save_plan is not None:
        print(f"{args.save_plan}: the plan, for `sparsecc prune --plan`")
    return 0


def _pruned(args: argparse.Namespace, model: ir.Model, progress: Progress) -> PruneResult:
    from sparsecc.passes.prune_plan import PrunePlan
    from sparsecc.pruner import PruneOptions, prune, replay

    if args.plan is not None:
        progress("prune", 0, 1)
        return replay(model, PrunePlan.load(args.plan))
    options: PruneOptions = {"bounds": _shares(args.bound, "--bound"), "only": args.only, "skip": args.skip}
    for name in ("criterion", "aggregation", "normalization", "scope", "round_to", "largest", "seed"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    if args.data:
        options["data"] = _calibration(args.data, [value.name or "" for value in model.graph.inputs])
    return prune(
        model,
        args.ratio,
        target=dict(_shares(args.target, "--target")) or None,
        iterations=1 if args.iterations is None else args.iterations,
        machine=args.machine,
        progress=progress,
        **options,
    )


def _check_plan_alone(args: argparse.Namespace) -> None:
    """A plan says all there is to say.

    Raises:
        UsageError: --plan beside options that choose.
    """
    if args.plan is None:
        return
    names = (
        "ratio",
        "target",
        "iterations",
        "criterion",
        "aggregation",
        "normalization",
        "scope",
        "round_to",
    )
    names = (*names, "largest", "bound", "only", "skip", "data", "seed")
    given = [name for name in names if getattr(args, name) not in (None, [])]
    if given:
        option = given[0].replace("_", "-")
        raise UsageError(
            f"--plan says what goes, so --{option} beside it has no meaning; leave one of them out"
        )


def _shares(texts: Sequence[str], option: str) -> list[tuple[str, float]]:
    """`flops=0.5` -> ("flops", 0.5).

    Raises:
        UsageError: a text is not of this form, or names something twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, share = text.rpartition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not 0 <= value <= 1:
            raise UsageError(
                f"{option} {text}: expected NAME=SHARE with a share from 0 to 1, such as flops=0.5"
            )
        if name in found:
            raise UsageError(f"{option} gives {name} twice")
        found[name] = value
    return list(found.items())


def _calibration(files: Sequence[Path], inputs: Sequence[str]) -> Calibration:
    """Batches from .npz files.

    Raises:
        UsageError: a file that cannot be read, or only some files with a target.
    """
    import zipfile

    import numpy as np

    from sparsecc.passes.criteria import Calibration

    batches: list[Mapping[str, np.ndarray]] = []
    targets: list[np.ndarray] = []
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                batch = dict(arrays)
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise UsageError(f"--data {file} is no .npz file with arrays by input name: {error}") from error
        if "target" in batch and "target" not in inputs:
            targets.append(batch.pop("target"))
        batches.append(batch)
    if targets and len(targets) < len(batches):
        raise UsageError(f"{len(targets)} of {len(batches)} files of --data have a target: give all or none")
    return Calibration(batches, targets or None)


def _print(result: PruneResult, checked: OracleResult | None) -> None:
    rows = [
        (
            group.name,
            group.kind,
            f"{group.size:,}",
            f"{len(group.kept):,}",
            f"{1 - len(group.kept) / group.size:.1%}",
        )
        for group in result.groups
    ]
    print(table(("group", "kind", "#before", "#after", "#gone"), rows))
    print()
    costs = [
        (name, f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.1%}" if before else "")
        for name, before, after in (
            ("parameters", result.before.parameters, result.after.parameters),
            ("FLOPs a run", result.before.flops, result.after.flops),
            ("bytes", result.before.bytes, result.after.bytes),
        )
    ]
    print(table(("", "#before", "#after", "#left"), costs))
    print()
    if result.latency_share is not None:
        print(f"latency: {result.latency_share:.1%} of the dense model's")
    if checked is None:
        print("not checked against the original")
    else:
        print(
            f"checked: equals the original with these slices zeroed, to {checked.difference:.1g} (relative)"
        )
