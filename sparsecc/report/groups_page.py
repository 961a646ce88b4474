"""The dependency groups of a model as one HTML page: its graph, the groups, and why the others are frozen.

Nothing is loaded from elsewhere; a short script shows where in the graph the group under the pointer is.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from sparsecc.axes.explain import in_graph_order
from sparsecc.axes.groups import Group, Groups
from sparsecc.report.groups_page_graph import colour_of, draw
from sparsecc.report.html import STYLE, bytes_text, html_table

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
${style}body { max-width: 110rem; }
.sides { display: grid; grid-template-columns: minmax(0, 4fr) minmax(0, 3fr); gap: 1.25rem; }
.sides > div { max-height: 80vh; overflow: auto; border: 1px solid var(--line); border-radius: .5rem; }
.graph { max-width: none; margin: .8rem; }
.graph path { fill: none; stroke: var(--dense); }
.graph rect { fill: var(--card); stroke: var(--dense); } .graph rect.layer { stroke: var(--fg); }
.graph rect[style] + text { fill: #1c2430; }
.graph.chosen g, .graph.chosen path { opacity: .15; }
.graph.chosen .on { opacity: 1; } .graph.chosen path.on { stroke: var(--fg); }
tr[data-group] { cursor: pointer; } tr[data-group] code { display: block; min-width: 17rem; }
tr.on { background: var(--card); }
.bar { background: var(--ours); height: .5rem; border-radius: .15rem; min-width: 1px; }
.dot { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="soft">$subtitle</p>
<div class="cards">$cards</div>
<h2>Groups</h2>
<p class="soft">Slices that must be kept or removed together. Point at a group to see it in the graph, click
to keep it shown. The figures in its row are of one index; the bar is the share of all parameters that lie in
its slices.</p>
<div class="sides"><div>$groups</div><div>$graph</div></div>
<h2>Frozen</h2>
<div class="scroll">$frozen</div>
<h2>Ops without a rule</h2>
<div class="scroll">$uncovered</div>
<script>
const graph = document.querySelector(".graph");
let kept = null;
function show(group) {
  for (const item of document.querySelectorAll(".on")) item.classList.remove("on");
  if (graph) graph.classList.toggle("chosen", group !== null);
  if (group === null) return;
  for (const item of document.querySelectorAll(`[data-g~="$${group}"], [data-group="$${group}"]`))
    item.classList.add("on");
}
for (const row of document.querySelectorAll("tr[data-group]")) {
  const group = row.dataset.group;
  row.addEventListener("mouseenter", () => show(group));
  row.addEventListener("mouseleave", () => show(kept));
  row.addEventListener("click", () => {
    kept = kept === group ? null : group;
    show(kept);
    const first = document.querySelector(`.graph [data-g~="$${group}"]`);
    if (kept !== null && first) first.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
</script>
</body>
</html>
""")


def render_groups(groups: Groups, title: str) -> str:
    """The whole page.

    Args:
        groups: of the model.
        title: the model's name.
    """
    prunable = [group for group in in_graph_order(groups) if group.frozen is None]
    numbers = {dim: number for number, group in enumerate(prunable) for dim in group.dims}
    picture = draw(groups, numbers)
    note = f'<p class="soft">{escape(picture.note)}</p>' if picture.note else ""
    return _PAGE.substitute(
        title=escape(f"{title}: groups"),
        subtitle=escape(f"{len(groups)} groups of slices that live or go together"),
        style=STYLE,
        cards=_cards(groups),
        groups=_groups_table(groups, prunable),
        graph=note + picture.svg,
        frozen=_frozen_table(groups),
        uncovered=_uncovered_table(groups),
    )


def _cards(groups: Groups) -> str:
    total = groups.total
    cards = [
        (f"{groups.prunable_share:.1%}", "of the parameters can be pruned"),
        (f"{len(groups.prunable):,}", "groups that can be pruned"),
        (f"{len(groups) - len(groups.prunable):,}", "frozen groups"),
        (f"{total.parameters:,.0f}", "parameters"),
        (bytes_text(round(total.bytes)), "of parameters"),
        (f"{total.flops:,.0f}", "FLOPs a run"),
    ]
    return "".join(
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(what)}</span></div>'
        for value, what in cards
    )


def _groups_table(groups: Groups, prunable: Sequence[Group]) -> str:
    if not prunable:
        return '<p class="soft">Nothing can be pruned.</p>'
    heads = ("", "group", "share", "kind", "#size", "exactness", "#parameters", "#FLOPs", "#tensors")
    parameters = [group.size * group.cost.parameters for group in prunable]
    total, largest = groups.total.parameters, max(parameters) or 1.0
    cells = [
        _group_row(group, number, own / total, own / largest)
        for number, (group, own) in enumerate(zip(prunable, parameters, strict=True))
    ]
    return html_table(heads, ()).replace("<tbody>\n", "<tbody>\n" + "\n".join(cells))


def _group_row(group: Group, number: int, share: float, bar: float) -> str:
    slices = ", ".join(f"{axis.parameter}[{axis.axis}]" for axis in group.axes[:12])
    more = f", and {len(group.axes) - 12} more" if len(group.axes) > 12 else ""
    figures = (f"{group.cost.parameters:,.0f}", f"{group.cost.flops:,.0f}", f"{len(group.parameters):,}")
    return (
        f'<tr data-group="{number}"><td><span class="dot" style="background:{colour_of(number)}"></span></td>'
        f'<td title="{escape(slices + more)}"><code>{escape(group.name)}</code></td>'
        f'<td title="{share:.1%}"><div class="bar" style="width:{60 * bar:.1f}px"></div></td>'
        f'<td>{escape(group.kind.value)}</td><td class="number">{group.size:,}</td>'
        f"<td>{group.exactness}</td>"
        + "".join(f'<td class="number">{text}</td>' for text in figures)
        + "</tr>"
    )


def _frozen_table(groups: Groups) -> str:
    found: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.frozen is not None:
            found.setdefault((group.frozen.reason, group.frozen.where), []).append(group)
    if not found:
        return '<p class="soft">No group is frozen.</p>'
    rows = (
        (escape(reason), escape(where), f"{len(members):,}", escape(_some([group.name for group in members])))
        for (reason, where), members in found.items()
    )
    return html_table(("why", "where", "#groups", "axes"), rows)


def _uncovered_table(groups: Groups) -> str:
    if not groups.analysis.uncovered:
        return '<p class="soft">Every op has a rule.</p>'
    rows = (
        (escape(node.op_type), escape(node.name or node.outputs[0].name or ""), escape(refusal.reason))
        for node, refusal in groups.analysis.uncovered.items()
    )
    return html_table(("op", "node", "why"), rows)


def _some(names: Sequence[str], count: int = 6) -> str:
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
