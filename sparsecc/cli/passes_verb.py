"""`sparsecc passes`: lists the passes and their options."""

from __future__ import annotations

import argparse
import dataclasses

from sparsecc.cli.options import Verbs, add_verb

_DETAILS = "A pipeline is written as name{option=value option=value},name; lists are separated by commas."
_EXAMPLES = """\
  sparsecc passes
  sparsecc compile model.onnx --passes 'sparsify{pattern=4x1 sparsity=0.8 skip=head*}'"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    add_verb(verbs, "passes", "list the passes and their options", _DETAILS, _EXAMPLES)


def run(args: argparse.Namespace) -> int:
    """Print each pass."""
    from sparsecc.passes import COMPILE_PIPELINE, get_pass, pass_names

    for name in pass_names():
        found = get_pass(name)
        print(f"{name}: {found.summary}")
        for field in dataclasses.fields(found):
            default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            print(f"    {field.name.replace('_', '-')}={default}")
    print(f"\nevery compile ends with {COMPILE_PIPELINE}")
    return 0
