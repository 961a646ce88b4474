"""Where an initializer came from and which passes touched it, kept in metadata so that it is saved too.

`source` is the parameter's name in the original model; `passes` the passes in order; `transforms` what was
done to its layout, such as `transpose(1,0)`, so that a plan can be replayed on the original state_dict.
"""

from __future__ import annotations

import onnx_ir as ir

SOURCE_KEY = "sparsecc.source"
PASSES_KEY = "sparsecc.passes"
TRANSFORMS_KEY = "sparsecc.transforms"


def source_name(value: ir.Value) -> str:
    """Name of the original parameter, or the value's own name if nothing renamed it."""
    return value.metadata_props.get(SOURCE_KEY, value.name or "")


def set_source(value: ir.Value, name: str) -> None:
    """Record the original parameter's name."""
    value.metadata_props[SOURCE_KEY] = name


def record(item: ir.Value | ir.Node, pass_name: str) -> None:
    """Append a pass to the history of an initializer or node; the same pass twice in a row counts once."""
    history = passes_of(item)
    if not history or history[-1] != pass_name:
        item.metadata_props[PASSES_KEY] = " ".join((*history, pass_name))


def passes_of(item: ir.Value | ir.Node) -> tuple[str, ...]:
    """Names of the passes that touched an initializer or node, first to last."""
    return tuple(item.metadata_props.get(PASSES_KEY, "").split())


def record_transform(value: ir.Value, transform: str) -> None:
    """Append a layout change such as `transpose(1,0)`."""
    value.metadata_props[TRANSFORMS_KEY] = " ".join((*transforms_of(value), transform))


def transforms_of(value: ir.Value) -> tuple[str, ...]:
    """Layout changes since the original parameter, first to last."""
    return tuple(value.metadata_props.get(TRANSFORMS_KEY, "").split())


def inherit(value: ir.Value, origin: ir.Value) -> None:
    """Copy the whole history and the encoding tag of `origin` to the value that replaces it."""
    for key, text in origin.metadata_props.items():
        if key.startswith("sparsecc."):
            value.metadata_props[key] = text
    set_source(value, source_name(origin))
