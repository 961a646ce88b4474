"""Times an artifact beside ONNX Runtime: one process, the same inputs and CPUs, alternating blocks."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sparsecc.arrays import Array, random_arrays, read_arrays
from sparsecc.artifact.load import load
from sparsecc.errors import CaptureError, UsageError, VerificationError
from sparsecc.timing import Timing, interleave, pinned

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference of an output, and that over the largest value of the reference."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class SideBySide:
    """The result.

    Attributes:
        ours, theirs: of the artifact and of ONNX Runtime; None where no model was given.
        differences: by output name.
        threads: of each side.
        cpus: that the process was pinned to; empty where it was not.
    """

    ours: Timing
    theirs: Timing | None
    threads: int
    cpus: tuple[int, ...]
    differences: dict[str, Difference] = field(default_factory=dict[str, Difference])

    @property
    def ratio(self) -> float | None:
        """Median time of the artifact over that of ONNX Runtime."""
        return None if self.theirs is None else self.ours.median / self.theirs.median

    def to_json(self) -> dict[str, object]:
        """All fields and the ratio, times in seconds."""
        return {**asdict(self), "ratio": self.ratio}


def side_by_side(
    artifact: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    inputs: Mapping[str, Array] | None = None,
    files: Sequence[str] = (),
    runs: int = 50,
    threads: int = 1,
    seed: int = 0,
    pin: bool = True,
) -> SideBySide:
    """Run and time.

    Args:
        artifact: what `sparsecc.compile` wrote.
        model: an .onnx file with the same inputs, for ONNX Runtime.
        inputs: arrays by name.
        files: further inputs, as `sparsecc run --input` takes them; what is in neither is drawn at random.
        runs: timed runs of each side.
        threads: of each side.
        seed: of random inputs.
        pin: keep the process on as many CPUs as threads.

    Raises:
        ArtifactError: the artifact or an input is wrong.
        UsageError: the model has other inputs or outputs than the artifact.
        CaptureError, VerificationError: ONNX Runtime cannot read or run the model.
    """
    with pinned(threads) if pin else nullcontext(()) as cpus, load(artifact, threads) as session:
        feeds = {**read_arrays(files, session.inputs), **(inputs or {})}
        feeds.update(random_arrays([spec for spec in session.inputs if spec.name not in feeds], seed))
        found = session.run(feeds)
        if model is None:
            return SideBySide(
                interleave({"ours": lambda: session.run(feeds)}, runs)["ours"], None, threads, cpus
            )
        other = OnnxRuntime(model, threads)
        differences = compare(found, other.run(feeds))
        times = interleave({"ours": lambda: session.run(feeds), "theirs": lambda: other.run(feeds)}, runs)
        return SideBySide(times["ours"], times["theirs"], threads, cpus, differences)


def compare(found: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, Difference]:
    """Differences by output name.

    Raises:
        UsageError: the two have outputs of other names or shapes.
    """
    out: dict[str, Difference] = {}
    if found.keys() != reference.keys():
        raise UsageError(f"the outputs are {', '.join(found)} here and {', '.join(reference)} in the model")
    for name, array in found.items():
        other = reference[name]
        if array.shape != other.shape:
            raise UsageError(
                f"output {name} has shape {list(array.shape)} here and {list(other.shape)} in the model"
            )
        if array.size == 0:
            out[name] = Difference(0.0, 0.0)
            continue
        absolute = float(np.abs(array.astype(np.float64) - other.astype(np.float64)).max())
        largest = float(np.abs(other.astype(np.float64)).max())
        out[name] = Difference(absolute, absolute / largest if largest else absolute)
    return out


class OnnxRuntime:
    """An .onnx file in ONNX Runtime with its default graph optimisations, on the CPU.

    Raises:
        CaptureError: the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int) -> None:
        import onnxruntime

        if not Path(path).is_file():
            raise CaptureError(f"there is no file {path}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._errors = _errors()
        try:
            self._session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise CaptureError(f"ONNX Runtime cannot read {path}: {_line(error)}") from error
        self._names = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            VerificationError: ONNX Runtime refuses the inputs.
        """
        try:
            found = cast(list[Array], self._session.run(None, dict(inputs)))
            return dict(zip(self._names, found, strict=True))
        except self._errors as error:
            raise VerificationError(f"ONNX Runtime cannot run the model: {_line(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")

    names = (
        "EPFail",
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
    )
    return (*(getattr(state, name) for name in names), state.RuntimeException, RuntimeError, ValueError)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
