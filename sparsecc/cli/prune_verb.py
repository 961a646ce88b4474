"""`sparsecc prune`: deletes channels, heads and features and writes a smaller .onnx file."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_source, add_verb, check_out, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import group_table, table
from sparsecc.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.pruner import PruneResult

_DETAILS = """\
Whole slices go from every layer that shares them (`sparsecc groups` lists them), so the result is an ordinary
smaller network. Nothing is trained, which costs accuracy: fine-tune it afterwards. The result is checked
against the original with the same slices zeroed, unless --no-verify is given or it is large."""
_EXAMPLES = """\
  sparsecc prune model.onnx -o smaller.onnx --ratio 0.3
  sparsecc prune model.onnx -o smaller.onnx --flops 0.5 --scope global --skip '*.heads'
  sparsecc prune model.onnx -o smaller.onnx --latency 0.6 --round-to 16
  sparsecc prune model.onnx -o smaller.onnx --ratios 0.3,0.5,0.7
  sparsecc prune model.onnx -o smaller.onnx --ratio 0.2 --reconstruct id --data batch.npz
  sparsecc prune model.onnx -o smaller.onnx --criterion taylor --data batch0.npz --data batch1.npz
  sparsecc prune train.py:make_model -o smaller.onnx --ratio 0.5 --save-plan plan.json
  sparsecc prune retrained.onnx -o smaller.onnx --plan plan.json"""


_TOLD = ("no-rule", "unification", "reshape", "inexact", "symbolic", "no-vote", "too-wide")
"""Codes of refusals that are about this model, not about axes that no model can lose."""

_TARGETS = {
    "parameters": "share of the dense model's parameters that stays",
    "flops": "share of its FLOPs that stays",
    "bytes": "share of the bytes of its parameters that stays",
    "latency": "share of its time that stays, measured on this machine",
    "predicted-latency": "share of its time that stays, by the cost model",
}


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
        "--ratios",
        metavar="A,B,...",
        help="several, from one ranking: OUT becomes OUT-A.onnx, OUT-B.onnx, ...",
    )
    for name, text in _TARGETS.items():
        much.add_argument(f"--{name}", type=float, metavar="SHARE", help=text)
    much.add_argument("--plan", type=Path, metavar="FILE", help="delete what a saved plan deletes")
    much.add_argument("--iterations", type=int, metavar="N", help="score anew after each of N parts (1)")
    _add_choice(parser)
    _add_reconstruction(parser)
    parser.add_argument("--save-plan", type=Path, metavar="FILE", help="write what stays as JSON")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="check against the original with the same slices zeroed (done up to 250 MB if neither is given)",
    )
    parser.add_argument("--machine", default="cpu", metavar="TARGET", help="of a latency (%(default)s)")


def _add_reconstruction(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("repairing without training")
    group.add_argument(
        "--reconstruct",
        choices=("id", "ood", "noise"),
        help="fit what is left to the dense model on --data like the training data (id), on other --data "
        "(ood) or on noise",
    )
    group.add_argument("--regress", action="store_true", help="layer by layer, on the pruned model's inputs")
    group.add_argument("--batch-norm", action="store_true", help="estimate batch-norm statistics anew (id)")


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

    _check_plan_alone(args)
    ratios = _ratios(args)
    outs = [args.out] if not ratios else [_numbered(args.out, ratio) for ratio in ratios]
    for path in (*outs, args.save_plan):
        if path is not None:
            check_out(path, force=args.force)
    shapes = read_shapes(args.shape)
    bounds = _shares(args.bound, "--bound")
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes, foreign_ops=True)
        results = _pruned(args, model, ratios, bounds, progress)
        progress("write", 0, 1)
        sizes = [write_model(result.model, out) for result, out in zip(results, outs, strict=True)]
        if args.save_plan is not None:
            results[0].plan.save(args.save_plan)
    for result, out, size in zip(results, outs, sizes, strict=True):
        _print(result)
        print(f"{out}: {size} bytes\n")
    if args.save_plan is not None:
        print(f"{args.save_plan}: the plan, for `sparsecc prune --plan`")
    return 0


def _ratios(args: argparse.Namespace) -> list[float]:
    """The numbers of --ratios.

    Raises:
        UsageError: no numbers, or other options that say how much.
    """
    if args.ratios is None:
        return []
    given = [
        name for name in ("ratio", "iterations", "save_plan", *_TARGETS) if _value(args, name) is not None
    ]
    if given:
        raise UsageError(
            f"--ratios and --{given[0].replace('_', '-')} contradict each other; give one of them"
        )
    try:
        return [float(text) for text in args.ratios.split(",")]
    except ValueError:
        raise UsageError(f"--ratios {args.ratios}: expected numbers such as 0.3,0.5,0.7") from None


def _numbered(out: Path, ratio: float) -> Path:
    return out.with_name(f"{out.stem}-{ratio:g}{out.suffix}")


def _value(args: argparse.Namespace, name: str) -> object:
    return getattr(args, name.replace("-", "_"))


def _pruned(
    args: argparse.Namespace,
    model: ir.Model,
    ratios: Sequence[float],
    bounds: Mapping[str, float],
    progress: Progress,
) -> list[PruneResult]:
    from sparsecc.passes.criteria.calibration import read_calibration
    from sparsecc.passes.prune_plan import PrunePlan
    from sparsecc.pruner import PruneOptions, prune, prune_ratios, replay

    if args.plan is not None:
        progress("prune", 0, 1)
        return [replay(model, PrunePlan.load(args.plan), proof=args.verify)]
    targets = {
        name: share for name in _TARGETS if (share := getattr(args, name.replace("-", "_"))) is not None
    }
    options: PruneOptions = {"bounds": list(bounds.items()), "only": args.only, "skip": args.skip}
    for name in ("criterion", "aggregation", "normalization", "scope", "round_to", "largest", "seed"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    if args.data:
        inputs = [value.name or "" for value in model.graph.inputs]
        options["data"] = read_calibration(args.data, "--data", inputs)
    if args.reconstruct is not None:
        options["reconstruct"] = args.reconstruct
        options["regress"] = args.regress
        options["batch_norm"] = args.batch_norm
    elif args.regress or args.batch_norm:
        raise UsageError("--regress and --batch-norm are parts of a reconstruction: give --reconstruct too")
    if ratios:
        return prune_ratios(model, ratios, proof=args.verify, **options)
    result = prune(
        model,
        args.ratio,
        target=targets or None,
        iterations=1 if args.iterations is None else args.iterations,
        machine=args.machine,
        progress=progress,
        proof=args.verify,
        **options,
    )
    return [result]


def _check_plan_alone(args: argparse.Namespace) -> None:
    """A plan says all there is to say.

    Raises:
        UsageError: --plan beside options that choose.
    """
    if args.plan is None:
        return
    much = ("ratio", "ratios", *_TARGETS, "iterations")
    which = ("criterion", "aggregation", "normalization", "scope", "round_to", "largest", "bound", "only")
    names = (*much, *which, "skip", "data", "seed", "reconstruct")
    given = [name for name in names if _value(args, name) not in (None, [])]
    if given:
        option = given[0].replace("_", "-")
        raise UsageError(
            f"--plan says what goes, so --{option} beside it has no meaning; leave one of them out"
        )


def _shares(texts: Sequence[str], option: str) -> dict[str, float]:
    """`flops=0.5` -> {"flops": 0.5}.

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
    return found


def _print(result: PruneResult) -> None:
    print(group_table(result.groups))
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
    reasons = collections.Counter(refusal.reason for refusal in result.refusals if refusal.code in _TOLD)
    for reason, count in reasons.items():
        print(f"{count} left whole: {reason}")
    if result.latency_share is not None:
        print(f"latency: {result.latency_share:.1%} of the dense model's")
    if result.checked is None:
        print("not checked against the original (over 250 MB, an op unknown to ONNX Runtime, or --no-verify)")
    else:
        difference = result.checked.difference
        print(f"checked: equals the original with these slices zeroed, to {difference:.1g} (relative)")
