"""`sparsecc ops`: the rule table, which says what every op means for axes and for zeroed slices."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_verb
from sparsecc.cli.table import table

if TYPE_CHECKING:
    from sparsecc.axes.rules.registry import OpRule

_DETAILS = """\
A pattern names axes: equal names are one axis, (a b) is a row-major product, (a|b) a concatenation, *s any
number of axes; ! marks an axis that keeps all its indices, ~ one over which statistics are taken. An op that
is not listed freezes what it touches; sparsecc.register_rule adds a row."""
_EXAMPLES = """\
  sparsecc ops
  sparsecc ops --family linear
  sparsecc ops --markdown > docs/ops.md"""

INTRODUCTION = """\
# Ops

What the axis analysis knows of every op. This page is what `sparsecc ops --markdown` prints.

A pattern names the axes of inputs and outputs: equal names are one axis, `(a b)` is a row-major product,
`(a|b)` a concatenation, `*s` any number of axes, `1` an axis of size one, `k[]` a single number and `[A, B]`
a sequence of tensors. `!` marks an axis that keeps all its indices, `~` one over which statistics are taken.
The last column says what the op makes of slices whose parameters are zero; where attributes or constants of
a node say otherwise, such as the bounds of a Clip, the node has its own. An op that is not listed, or is used
in a way that its rule does not cover, freezes the axes that it touches, with the reason.

A rule for an op of your own is one call:

```python
sparsecc.register_rule("my::ScaleChannels", "x[n,c,*s] scale[c] -> y[n,c,*s]", zero="keeps")
```
"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "ops", "list the ops that can be pruned through", _DETAILS, _EXAMPLES)
    parser.add_argument("--markdown", action="store_true", help="print the page docs/ops.md")
    parser.add_argument("--family", metavar="NAME", help="only ops of one family, such as linear")


def run(args: argparse.Namespace) -> int:
    """Print the rows."""
    from sparsecc.axes.rules.registry import all_rules
    from sparsecc.errors import UsageError

    rows = all_rules()
    families = list(dict.fromkeys(row.family for row in rows))
    if args.family is not None:
        rows = [row for row in rows if row.family == args.family]
        if not rows:
            raise UsageError(f"there is no family {args.family!r}; there are {', '.join(families)}")
    if args.markdown:
        print(markdown(rows), end="")
        return 0
    cells = [(row.op, row.domain or "ai.onnx", row.pattern, row.zero.value, row.family) for row in rows]
    print(table(("op", "domain", "axes", "zeros", "family"), cells))
    print(f"\n{len(rows)} ops")
    return 0


def markdown(rows: Sequence[OpRule]) -> str:
    """The page of some rows, one table a family."""
    lines = [INTRODUCTION, f"{len(rows)} ops.", ""]
    for family in dict.fromkeys(row.family for row in rows):
        lines += [f"## {family.capitalize()}", "", "| op | axes | zeros |", "|---|---|---|"]
        for row in rows:
            if row.family == family:
                name = f"{row.domain}::{row.op}" if row.domain else row.op
                pattern = row.pattern.replace("|", "\\|")
                lines.append(f"| {name} | `{pattern}` | {row.zero.value} |")
        lines.append("")
    return "\n".join(lines)
