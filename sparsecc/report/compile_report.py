"""`CompileReport`: what the passes did, what every layer became and why, and what was measured.

It is stored in an artifact's manifest as JSON and read back from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from sparsecc.errors import ArtifactError, Refusal


@dataclass(frozen=True)
class LayerLine:
    """One node with weights.

    Attributes:
        name: of its weight, as `sparsify` and `--skip` have it; nodes that share a weight share the name.
        node, op, shape: of the node; shape is text such as `64x32x1x1 on 56x56`.
        pattern: how the zeros are arranged, such as `4x1`.
        zeros: share of zeros.
        kernel: the form that was chosen.
        reason: why.
        predicted_seconds, predicted_dense_seconds: by the cost model; 0 where it has no opinion.
        measured_seconds, measured_dense_seconds: on one core, or None where nothing was measured.
        steps: indices of the plan's kernel calls for this layer.
    """

    name: str
    node: str
    op: str
    shape: str
    pattern: str
    zeros: float
    kernel: str
    reason: str
    predicted_seconds: float
    predicted_dense_seconds: float
    measured_seconds: float | None = None
    measured_dense_seconds: float | None = None
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class PassLine:
    """One pass that ran: its spec, the seconds that it took and its notes."""

    spec: str
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompileReport:
    """All that a user may ask about a compile.

    Attributes:
        target: as asked for, and the machine that it meant.
        weights, zeros: weights of convolutions and matrix products, and how many of them are zero.
        layers: in the order of execution.
        refusals: what passes left undone, and why.
        passes: in the order in which they ran.
        phases: seconds by phase of the compile.
        measured_seconds, measured_dense_seconds: one run on one core, of this artifact and of the same graph
            with dense kernels only; None where nothing was measured.
        notes: sentences about the whole.
    """

    target: str
    weights: int
    zeros: int
    layers: tuple[LayerLine, ...]
    refusals: tuple[Refusal, ...]
    passes: tuple[PassLine, ...]
    phases: dict[str, float]
    measured_seconds: float | None = None
    measured_dense_seconds: float | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The report as JSON values."""
        return asdict(self)


def layer_lines(entries: object) -> tuple[LayerLine, ...]:
    """The layers of a plan's or a manifest's report; keys that are not fields are ignored."""
    return tuple(_layer(entry) for entry in cast(Sequence[Mapping[str, Any]], entries or ()))


def report_of(values: Mapping[str, object]) -> CompileReport | None:
    """The report in a manifest, or None where it holds none.

    Raises:
        ArtifactError: it holds something else under that name.
    """
    if "layers" not in values or "phases" not in values:
        return None
    data = cast(Mapping[str, Any], values)
    try:
        return CompileReport(
            target=str(data["target"]),
            weights=int(data["weights"]),
            zeros=int(data["zeros"]),
            layers=layer_lines(data["layers"]),
            refusals=tuple(Refusal(**entry) for entry in data["refusals"]),
            passes=tuple(PassLine(e["spec"], e["seconds"], tuple(e["notes"])) for e in data["passes"]),
            phases=dict(data["phases"]),
            measured_seconds=data["measured_seconds"],
            measured_dense_seconds=data["measured_dense_seconds"],
            notes=tuple(data["notes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the manifest's compile report cannot be read: {error!r}") from error


def _layer(entry: Mapping[str, Any]) -> LayerLine:
    return LayerLine(
        name=str(entry["name"]),
        node=str(entry["node"]),
        op=str(entry["op"]),
        shape=str(entry["shape"]),
        pattern=str(entry["pattern"]),
        zeros=float(entry["zeros"]),
        kernel=str(entry["kernel"]),
        reason=str(entry["reason"]),
        predicted_seconds=float(entry["predicted_seconds"]),
        predicted_dense_seconds=float(entry["predicted_dense_seconds"]),
        measured_seconds=entry.get("measured_seconds"),
        measured_dense_seconds=entry.get("measured_dense_seconds"),
        steps=tuple(entry["steps"]),
    )
