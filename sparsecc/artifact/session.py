"""Runs a loaded artifact: numpy arrays in, numpy arrays out, with every call checked before it is made."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.manifest import Manifest, StepInfo, TensorInfo
from sparsecc.errors import ArtifactError, UsageError

Array = npt.NDArray[Any]


class Engine(Protocol):
    """What runs one artifact: its library in this process, a WebAssembly runtime, or an emulator."""

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Read the inputs and write the outputs, row-major and aligned, in the manifest's order.

        Raises:
            ArtifactError: the run failed.
        """
        ...

    def profile(self, inputs: Sequence[Array], outputs: Sequence[Array], steps: int) -> list[float]:
        """The same, and the seconds of each step.

        Raises:
            ArtifactError: the run failed.
            UsageError: this engine cannot time steps.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; may be called again."""
        ...


class Session:
    """A loaded artifact, made by `sparsecc.load`. Use it as a context manager, or call `close`.

    Runs of one session exclude each other, from whatever thread they come; sessions are independent. While
    a run is in C, other Python threads go on.

    Attributes:
        manifest: all that is known about the artifact.
        inputs, outputs: names, numpy types and shapes, in the graph's order.
        threads: threads of a run, the caller's included.
    """

    def __init__(self, manifest: Manifest, engine: Engine, threads: int = 1) -> None:
        self._engine: Engine | None = engine
        self.manifest = manifest
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        self.threads = threads
        self._names = tuple(spec.name for spec in manifest.inputs)
        self._types = [np.dtype(spec.dtype) for spec in manifest.inputs]
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the network once.

        Args:
            inputs: for each input its array, of exactly its type and shape. An array that is not row-major
                or not aligned is copied.

        Returns:
            New arrays by output name.

        Raises:
            ArtifactError: a missing, unknown or wrong input, or a failure inside the library.
            UsageError: the session is closed.
        """
        arrays = self._check_inputs(inputs)
        outputs = self._new_outputs()
        with self._lock:
            self._opened().run(arrays, outputs)
        return {spec.name: array for spec, array in zip(self.outputs, outputs, strict=True)}

    def profile(self, inputs: Mapping[str, Array]) -> list[tuple[str, str, float]]:
        """Run the network once and time its steps.

        Returns:
            For each step in order: its label, its kernel family and its wall-clock time in seconds.

        Raises:
            As `run`; and UsageError where the artifact runs without a clock.
        """
        arrays = self._check_inputs(inputs)
        outputs = self._new_outputs()
        steps = self.manifest.steps
        with self._lock:
            seconds = self._opened().profile(arrays, outputs, len(steps))
        return [(step.label, step.kind, s) for step, s in zip(steps, seconds, strict=True)]

    @property
    def steps(self) -> tuple[StepInfo, ...]:
        """The kernel calls of a run, in order."""
        return self.manifest.steps

    def close(self) -> None:
        """Free the memory and threads; waits for a run that is going on. May be called again."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._engine is not None:  # nobody else has the session any more: no lock
            self._engine.close()

    def __repr__(self) -> str:
        state = ", closed" if self._engine is None else ""
        arrow = f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"
        return f"<Session {self.manifest.name}: {arrow}; threads={self.threads}{state}>"

    def _opened(self) -> Engine:
        if self._engine is None:
            raise UsageError("the session is closed: load the artifact again")
        return self._engine

    def _new_outputs(self) -> list[Array]:
        return [np.empty(spec.shape, dtype=spec.dtype) for spec in self.outputs]

    def _check_inputs(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The arrays in the order of the C call, row-major and aligned."""
        if not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArtifactError(
                f"inputs: expected a mapping from {', '.join(self._names)} to arrays, "
                f"found {type(inputs).__name__}"
            )
        unknown = [str(name) for name in inputs if name not in self._names]
        if unknown:
            raise ArtifactError(
                f"the network has no input {', '.join(unknown)}: its inputs are {', '.join(self._names)}"
            )
        missing = [name for name in self._names if name not in inputs]
        if missing:
            raise ArtifactError(
                f"the input {', '.join(missing)} is missing: expected {', '.join(self._names)}"
            )
        return [
            _check_array(spec, dtype, inputs[spec.name])
            for spec, dtype in zip(self.inputs, self._types, strict=True)
        ]


def _check_array(spec: TensorInfo, dtype: np.dtype[Any], array: object) -> Array:
    if not isinstance(array, np.ndarray):
        raise ArtifactError(f"input {spec.name!r}: expected a numpy array, found {type(array).__name__}")
    if array.dtype != dtype:
        raise ArtifactError(
            f"input {spec.name!r}: expected type {spec.dtype}, found {_type_name(array.dtype)}"
        )
    if array.shape != spec.shape:
        raise ArtifactError(
            f"input {spec.name!r}: expected shape {list(spec.shape)}, found {list(array.shape)}"
        )
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])


def _type_name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else f"{dtype.name} in the other byte order"
