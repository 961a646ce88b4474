"""`sparsecc targets`: lists the machines to compile for."""

from __future__ import annotations

import argparse

from sparsecc.cli.options import Verbs, add_verb
from sparsecc.cli.table import table

_DETAILS = """\
An artifact runs on every machine that has the features of its target; `float` counts the
lanes and the registers of a vector, and `int8` names what multiplies 8-bit codes. Targets of other machines
than this one need a C compiler for them, which `pip install sparsecc[zig]` brings. Targets for GPUs have no
vectors of their own: their kernels are listed instead, and `cuda` needs nvcc or `pip install sparsecc[cuda]`
to compile."""
_EXAMPLES = "  sparsecc targets"


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(verbs, "targets", "list the targets to compile for", _DETAILS, _EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Print one line per target."""
    from sparsecc.errors import LoweringError
    from sparsecc.targets.registry import GPUS, HOST, MACHINES, machine_for, missing_features

    try:
        best = machine_for("host").name
    except LoweringError:
        best = "none of the targets below"
    rows = [(", ".join(HOST), "", "yes", "", "", "", f"this machine: {best}")]
    for name, machine in MACHINES.items():
        here = "no" if missing_features(machine) else "yes"
        size = f"{machine.lanes} x {machine.registers}"
        needs = ", ".join(machine.all_features)
        rows.append((name, machine.platform.name, here, size, machine.products, machine.verified, needs))
    print(table(("target", "platform", "runs here", "float", "int8", "checked", "needs"), rows))
    rows = [
        (name, gpu.source, _devices(name), gpu.verified, ", ".join(gpu.families))
        for name, gpu in GPUS.items()
    ]
    print(table(("target", "kernels", "runs here", "checked", "families of kernels"), rows))
    return 0


def _devices(name: str) -> str:
    """Whether this machine has a device for artifacts of a target."""
    if name != "opencl":
        return "no"
    from sparsecc.artifact.opencl import device_names
    from sparsecc.errors import ArtifactError

    try:
        return "yes" if device_names() else "no"
    except ArtifactError:
        return "no"
