"""`sparsecc groups`: the slices of all layers that must live or go together, and why."""

from __future__ import annotations

import argparse
import json
import os
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_source, add_verb, check_out, read_shapes
from sparsecc.cli.progress import Progress
from sparsecc.cli.table import table
from sparsecc.errors import UsageError

if TYPE_CHECKING:
    from sparsecc.axes.explain import Explanation
    from sparsecc.axes.groups import Group, Groups

_DETAILS = """\
A group is found by following every axis through every op: its slices must be kept or removed together for the
network to stay one. exact: removing an index is the same as zeroing it; norm-coupled: the statistics of a
normalisation then run over fewer entries; frozen: nothing of it can go, and --frozen says why. Columns marked
with * are what one index takes with it while all else is whole. A model in which nothing can be pruned is no
error here."""
_EXAMPLES = """\
  sparsecc groups model.onnx
  sparsecc groups model.onnx --kind heads --kind ffn
  sparsecc groups model.onnx --explain layer.0.attention.heads
  sparsecc groups model.onnx --explain 'fc.weight[0]'
  sparsecc groups train.py:make_model --frozen --html groups.html"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(
        verbs, "groups", "list the slices that can be pruned, and what is tied to them", _DETAILS, _EXAMPLES
    )
    add_source(parser)
    parser.add_argument("--frozen", action="store_true", help="list the groups that cannot be pruned too")
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="KIND",
        help="only groups of this kind, such as head, ffn or channels (may be repeated)",
    )
    parser.add_argument(
        "--explain",
        action="append",
        default=[],
        metavar="NAME",
        help="show the ops that tie a group together; its name, or a parameter's axis as NAME[AXIS]",
    )
    parser.add_argument(
        "--html", type=Path, metavar="PAGE", help="write a page with the graph and all groups"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace the page if it exists")
    parser.add_argument("--json", action="store_true", help="print JSON, with the positions of every slice")


def run(args: argparse.Namespace) -> int:
    """Analyse and print."""
    from sparsecc.axes.explain import explain, in_graph_order
    from sparsecc.axes.groups import groups
    from sparsecc.cli.source import read_model

    if args.html is not None:
        check_out(args.html, force=args.force)
    shapes = read_shapes(args.shape)
    with Progress(quiet=args.json) as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes, foreign_ops=True)
        progress("analyse", 0, 1)
        found = groups(model)
    chosen = _of_kinds(in_graph_order(found), args.kind)
    explanations = [explain(found, name) for name in args.explain]
    if args.html is not None:
        from sparsecc.report.groups_page import render_groups

        _write(args.html, render_groups(found, Path(args.source).stem))
    if args.json:
        print(json.dumps(_as_json(found, chosen, explanations), indent=1))
    elif explanations:
        print("\n\n".join(explanation.text() for explanation in explanations))
    else:
        _print_groups(found, chosen, frozen=args.frozen)
    if args.html is not None and not args.json:
        print(f"\nwrote {args.html}")
    return 0


def _of_kinds(found: Sequence[Group], kinds: Sequence[str]) -> list[Group]:
    """The groups whose kind has one of the names.

    Raises:
        UsageError: a name that no kind has.
    """
    from sparsecc.axes.kinds import Kind

    chosen: set[Kind] = set()
    for text in kinds:
        named = {kind for kind in Kind if text in (kind.value, kind.suffix, f"{kind.value}s")}
        if not named:
            names = ", ".join(kind.value for kind in Kind)
            raise UsageError(f"there is no kind {text!r}; there are {names}")
        chosen |= named
    return [group for group in found if not kinds or group.kind in chosen]


def _print_groups(found: Groups, chosen: Sequence[Group], *, frozen: bool) -> None:
    from sparsecc.report.html import bytes_text

    rows = [
        (
            group.name,
            group.kind.value,
            f"{group.size:,}",
            group.exactness,
            f"{group.cost.parameters:,.0f}",
            f"{group.cost.flops:,.0f}",
            bytes_text(round(group.cost.bytes)),
            f"{len(group.parameters):,}",
        )
        for group in chosen
        if group.frozen is None
    ]
    if rows:
        heads = ("group", "kind", "#size", "exactness", "#parameters*", "#FLOPs*", "#bytes*", "#tensors")
        print(f"{table(heads, rows)}\n")
    stuck = [(group, group.frozen) for group in chosen if group.frozen is not None]
    if frozen and stuck:
        lines = [
            (group.name, group.kind.value, f"{group.size:,}", refusal.reason, refusal.where)
            for group, refusal in stuck
        ]
        print(f"{table(('frozen group', 'kind', '#size', 'why', 'where'), lines)}\n")
    if not chosen:
        print(f"no group is of this kind; the model has {', '.join(sorted({g.kind.value for g in found}))}\n")
    total = found.total
    print(
        f"{total.parameters:,.0f} parameters, {bytes_text(round(total.bytes))}, {total.flops:,.0f} FLOPs "
        f"a run; {found.prunable_share:.1%} of the parameters lie in {len(found.prunable)} prunable groups"
    )
    if not found.prunable:
        print("nothing can be pruned: every axis of every parameter is frozen, for these reasons")
    reasons = _reasons(found)
    if reasons:
        print()
        print(table(("#frozen groups", "why"), [(str(count), reason) for reason, count in reasons]))
    if found.analysis.uncovered:
        uncovered = [
            (node.op_type, node.name or node.outputs[0].name or "", refusal.reason)
            for node, refusal in found.analysis.uncovered.items()
        ]
        print()
        print(table(("op without a rule", "node", "why"), uncovered))


def _reasons(found: Groups) -> list[tuple[str, int]]:
    """Why groups are frozen, and how many for each reason, the most frequent first."""
    return Counter(group.frozen.reason for group in found if group.frozen is not None).most_common()


def _as_json(
    found: Groups, chosen: Sequence[Group], explanations: Sequence[Explanation]
) -> dict[str, object]:
    total = found.total
    return {
        "parameters": total.parameters,
        "flops": total.flops,
        "bytes": total.bytes,
        "prunable_share": found.prunable_share,
        "groups": [_group_json(group) for group in chosen],
        "uncovered": [
            {"op": node.op_type, "node": node.name or node.outputs[0].name, "reason": refusal.reason}
            for node, refusal in found.analysis.uncovered.items()
        ],
        "explanations": [explanation.to_json() for explanation in explanations],
    }


def _group_json(group: Group) -> dict[str, object]:
    frozen = group.frozen
    return {
        "name": group.name,
        "kind": group.kind.value,
        "size": group.size,
        "exactness": group.exactness,
        "cost_per_index": {
            "parameters": group.cost.parameters,
            "flops": group.cost.flops,
            "bytes": group.cost.bytes,
        },
        "axes": [
            {
                "parameter": axis.parameter,
                "axis": axis.axis,
                "positions": [axis.positions(index) for index in range(group.size)],
            }
            for axis in group.axes
        ],
        "norms": list(group.norms),
        "frozen": frozen and {"reason": frozen.reason, "where": frozen.where, "code": frozen.code},
    }


def _write(path: Path, text: str) -> None:
    """Write the page whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
