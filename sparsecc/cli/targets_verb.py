"""`sparsecc targets`: lists the machines to compile for."""

from __future__ import annotations

import argparse

from sparsecc.cli.options import Verbs, add_verb
from sparsecc.cli.table import table

_DETAILS = "An artifact runs on every machine that has the features of its target."
_EXAMPLES = "  sparsecc targets"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(verbs, "targets", "list the targets to compile for", _DETAILS, _EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Print one line per target."""
    from sparsecc.errors import LoweringError
    from sparsecc.host import host_features
    from sparsecc.targets.cpu import MACHINES, machine_for

    try:
        best = machine_for("host").name
    except LoweringError:
        best = "none of the targets below"
    flags = host_features()
    rows = [("cpu, host", "yes", f"this machine: {best}")]
    for name, machine in MACHINES.items():
        here = "yes" if flags.issuperset(machine.features) else "no"
        rows.append((name, here, ", ".join(machine.features)))
    print(table(("target", "runs here", "needs"), rows))
    return 0
