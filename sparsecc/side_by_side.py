"""Times an artifact beside other engines: the same inputs, threads and CPUs, in alternating blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field

import numpy as np

from sparsecc.arrays import Array, random_arrays, read_arrays
from sparsecc.artifact.load import load
from sparsecc.errors import UsageError
from sparsecc.peer_process import PeerProcess
from sparsecc.peers import get_engine, open_peer
from sparsecc.timing import Side, Timing, interleave, pinned


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference of an output, and that over the largest value of the reference."""

    absolute: float
    relative: float


@dataclass(frozen=True)
class Beside:
    """One peer.

    Attributes:
        timing: of its inferences.
        ratio: median time of the artifact over the peer's.
        differences: by output name.
    """

    timing: Timing
    ratio: float
    differences: dict[str, Difference]


@dataclass(frozen=True)
class SideBySide:
    """The result.

    Attributes:
        ours: of the artifact.
        threads: of each side.
        cpus: that the processes were pinned to; empty where they were not.
        peers: by name, in the order they were asked for; empty where no model was given.
    """

    ours: Timing
    threads: int
    cpus: tuple[int, ...]
    peers: dict[str, Beside] = field(default_factory=dict[str, Beside])

    @property
    def theirs(self) -> Timing | None:
        """Of the first peer, ONNX Runtime unless others were asked for."""
        return self._first.timing if self._first else None

    @property
    def ratio(self) -> float | None:
        """Median time of the artifact over that of the first peer."""
        return self._first.ratio if self._first else None

    @property
    def differences(self) -> dict[str, Difference]:
        """To the first peer, by output name."""
        return self._first.differences if self._first else {}

    @property
    def _first(self) -> Beside | None:
        return next(iter(self.peers.values()), None)

    def to_json(self) -> dict[str, object]:
        """All fields and what is said of the first peer, times in seconds."""
        theirs, differences = self.theirs, self.differences
        return {
            **asdict(self),
            "theirs": asdict(theirs) if theirs else None,
            "differences": {name: asdict(found) for name, found in differences.items()},
            "ratio": self.ratio,
        }


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
    peers: Sequence[str] = ("onnxruntime",),
) -> SideBySide:
    """Run and time.

    Args:
        artifact: what `sparsecc.compile` wrote.
        model: an .onnx file with the same inputs, for the peers.
        inputs: arrays by name.
        files: further inputs, as `sparsecc run --input` takes them; what is in neither is drawn at random.
        runs: timed runs of each side.
        threads: of each side.
        seed: of random inputs.
        pin: keep all sides on as many CPUs as threads.
        peers: names of `sparsecc.peers.ENGINES`. Those that print run in processes of their own.

    Raises:
        ArtifactError: the artifact or an input is wrong.
        UsageError: the model has other inputs or outputs than the artifact, or a peer is not installed.
        CaptureError, VerificationError: a peer cannot read or run the model.
    """
    engines = {name: get_engine(name) for name in peers} if model is not None else {}
    with (
        pinned(threads) if pin else nullcontext(()) as cpus,
        load(artifact, threads) as session,
        ExitStack() as stack,
    ):
        feeds = {**read_arrays(files, session.inputs), **(inputs or {})}
        feeds.update(random_arrays([spec for spec in session.inputs if spec.name not in feeds], seed))
        found = session.run(feeds)
        sides: dict[str, Callable[[], object] | Side] = {"": lambda: session.run(feeds)}
        differences: dict[str, dict[str, Difference]] = {}
        for name, engine in engines.items():
            assert model is not None
            if engine.chatty:
                peer = stack.enter_context(PeerProcess(name, model, threads))
                differences[name] = compare(found, peer.run(feeds))
                sides[name] = peer
            else:
                peer = open_peer(name, model, threads)
                differences[name] = compare(found, peer.run(feeds))
                sides[name] = peer.bind(feeds)
        times = interleave(sides, runs)
        ours = times.pop("")
        beside = {
            name: Beside(timing, ours.median / timing.median, differences[name])
            for name, timing in times.items()
        }
        return SideBySide(ours, threads, cpus, beside)


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
