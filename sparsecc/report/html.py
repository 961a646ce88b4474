"""The compile report as one HTML page: no scripts, no files beside it, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from string import Template

from sparsecc.report.compile_report import CompileReport, LayerLine

STYLE = """\
:root { color-scheme: light dark; --fg: #1c2430; --soft: #5c6877; --line: #d9dee5; --bg: #ffffff;
  --card: #f4f6f9; --ours: #0f766e; --dense: #b4bcc8; --warn: #b45309; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6eaf0; --soft: #9aa6b5; --line: #333d4a; --bg: #12171e;
  --card: #1b222c; --ours: #2dd4bf; --dense: #566272; --warn: #fbbf24; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg); margin: 2rem auto;
  max-width: 76rem; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.soft { color: var(--soft); } .warn { color: var(--warn); }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.card { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; min-width: 9rem; }
.card b { display: block; font-size: 1.35rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .82rem/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--fg); font: 11px system-ui, sans-serif; }
.ours { fill: var(--ours); } .dense { fill: var(--dense); } .grid { stroke: var(--line); }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin: 0 .3rem 0 .9rem; }
"""
"""Of all pages."""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
<p class="soft">$subtitle</p>
<div class="cards">$cards</div>
$notes
<h2>Time per layer</h2>
$chart
<h2>Layers</h2>
<div class="scroll">$layers</div>
<h2>Left as they were</h2>
$refusals
<h2>Passes</h2>
<div class="scroll">$passes</div>
<h2>Compile time</h2>
<div class="scroll">$phases</div>
</body>
</html>
""")

_LABEL, _BARS, _VALUE, _ROW = 250, 620, 130, 26  # pixels of the chart


def render_html(
    report: CompileReport, title: str, signature: str, *, weights_bytes: int, arena_bytes: int
) -> str:
    """The whole page.

    Args:
        report: what to show.
        title: the model's name.
        signature: inputs and outputs.
        weights_bytes, arena_bytes: of the artifact.
    """
    return _PAGE.substitute(
        style=STYLE,
        title=escape(f"{title}: compile report"),
        subtitle=escape(f"{signature} · target {report.target}"),
        cards=_cards(report, weights_bytes, arena_bytes),
        notes="".join(f'<p class="warn">{escape(note)}</p>' for note in report.notes),
        chart=_chart(report.layers) + _between(report),
        layers=_layers(report.layers),
        refusals=_refusals(report),
        passes=html_table(
            ("pass", "what it did", "#seconds"),
            (
                (f"<code>{escape(p.spec)}</code>", escape("; ".join(p.notes)), f"{p.seconds:.3f}")
                for p in report.passes
            ),
        ),
        phases=html_table(("phase", "#seconds"), ((escape(k), f"{v:.2f}") for k, v in report.phases.items())),
    )


def bytes_text(count: int) -> str:
    """`5.47 MB`, in powers of ten."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def seconds_text(seconds: float | None) -> str:
    """`1.68 ms`, or a dash for what is not known."""
    if not seconds:
        return "–"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _cards(report: CompileReport, weights_bytes: int, arena_bytes: int) -> str:
    sparse = sum(1 for layer in report.layers if "sparse" in layer.kernel)
    cards = [
        (
            f"{report.zeros / report.weights:.1%}" if report.weights else "–",
            f"zeros in {report.weights:,} weights",
        ),
        (f"{sparse} of {len(report.layers)}", "layers with a sparse kernel"),
        (bytes_text(weights_bytes), "packed weights"),
        (bytes_text(arena_bytes), "scratch memory"),
    ]
    if report.measured_seconds and report.measured_dense_seconds:
        cards += [
            (seconds_text(report.measured_seconds), "one run, one core"),
            (seconds_text(report.measured_dense_seconds), "the same with dense kernels"),
            (f"{report.measured_dense_seconds / report.measured_seconds:.2f}x", "as fast as dense"),
        ]
    return "".join(
        f'<div class="card"><b>{escape(value)}</b><span class="soft">{escape(what)}</span></div>'
        for value, what in cards
    )


def _times(layer: LayerLine) -> tuple[float, float]:
    """Seconds of the layer and of its dense form: measured, else predicted."""
    if layer.measured_seconds is not None:
        return layer.measured_seconds, layer.measured_dense_seconds or 0.0
    return layer.predicted_seconds, layer.predicted_dense_seconds


def _between(report: CompileReport) -> str:
    """What a run spends outside the layers: pooling, elementwise chains, softmax, copies."""
    if not report.measured_seconds:
        return ""
    rest = report.measured_seconds - sum(layer.measured_seconds or 0.0 for layer in report.layers)
    return f'<p class="soft">{seconds_text(max(rest, 0.0))} of a run are spent outside these layers.</p>'


def _chart(layers: Sequence[LayerLine]) -> str:
    if not layers:
        return '<p class="soft">No layer has weights.</p>'
    what = (
        "measured on one core"
        if layers[0].measured_seconds is not None
        else "predicted, nothing was measured"
    )
    longest = max((max(_times(layer)) for layer in layers), default=0.0) or 1.0
    scale = _BARS / longest
    width, height = _LABEL + _BARS + _VALUE, _ROW * len(layers) + 24
    parts = [
        f'<p class="soft">{what}:<span class="key" style="background:var(--ours)"></span>this artifact'
        '<span class="key" style="background:var(--dense)"></span>dense kernels</p>',
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Time per layer, {what}">',
    ]
    for part in range(5):
        x = _LABEL + _BARS * part / 4
        parts.append(f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="16" y2="{height - 4}"/>')
        parts.append(f'<text x="{x:g}" y="11" text-anchor="middle">{_tick(longest * part / 4)}</text>')
    for index, layer in enumerate(layers):
        ours, dense = _times(layer)
        y = 20 + _ROW * index
        label = layer.name if len(layer.name) <= 38 else f"…{layer.name[-37:]}"
        text = seconds_text(ours) + (f" / {seconds_text(dense)}" if dense else "")
        end = _LABEL + scale * max(ours, dense)
        parts.append(
            f"<g><title>{escape(f'{layer.name} ({layer.node}): {layer.kernel}')}</title>"
            f'<text x="{_LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="ours" x="{_LABEL}" y="{y + 1}" width="{scale * ours:.1f}" height="10"/>'
            f'<rect class="dense" x="{_LABEL}" y="{y + 12}" width="{scale * dense:.1f}" height="8"/>'
            f'<text x="{end + 6:.1f}" y="{y + 14}">{text}</text></g>'
        )
    return "\n".join([*parts, "</svg>"])


def _tick(seconds: float) -> str:
    return seconds_text(seconds) if seconds else "0"


def _layers(layers: Sequence[LayerLine]) -> str:
    heads = (
        "layer",
        "node",
        "op",
        "shape",
        "pattern",
        "#zeros",
        "kernel",
        "why",
        "#predicted",
        "#dense",
        "#measured",
        "#dense",
    )
    return html_table(
        heads,
        (
            (
                *map(escape, (layer.name, layer.node, layer.op, layer.shape, layer.pattern)),
                f"{layer.zeros:.1%}",
                escape(layer.kernel),
                escape(layer.reason),
                seconds_text(layer.predicted_seconds),
                seconds_text(layer.predicted_dense_seconds),
                seconds_text(layer.measured_seconds),
                seconds_text(layer.measured_dense_seconds),
            )
            for layer in layers
        ),
    )


def _refusals(report: CompileReport) -> str:
    if not report.refusals:
        return '<p class="soft">No pass refused anything.</p>'
    rows = ((escape(r.where), escape(r.reason), f"<code>{escape(r.code)}</code>") for r in report.refusals)
    return f'<div class="scroll">{html_table(("where", "why", "code"), rows)}</div>'


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; heads that start with # are of number columns."""
    classes = [' class="number"' if head.startswith("#") else "" for head in heads]
    head = "".join(f"<th{c}>{escape(h.removeprefix('#'))}</th>" for c, h in zip(classes, heads, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{c}>{cell}</td>" for c, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
