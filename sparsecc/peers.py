"""Other engines behind one interface: an .onnx file on the CPU, in float32, with a fixed number of threads.

Each adapter asks its engine for what makes it fastest on one stream: OpenVINO for float32 where it would
choose bfloat16, MNN for its sparse kernels wherever its converter finds enough zeros.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from sparsecc.arrays import Array
from sparsecc.errors import CaptureError, UsageError, VerificationError

if TYPE_CHECKING:
    import onnxruntime


class Peer(Protocol):
    """A model that one engine has loaded."""

    facts: Mapping[str, object]
    """What the engine says of itself and of this model, for reports."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            VerificationError: the engine refuses the inputs.
        """
        ...

    def bind(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """What is timed: one inference on these inputs, with no copy that the engine can do without.

        Raises:
            VerificationError: the engine refuses the inputs.
        """
        ...


@dataclass(frozen=True)
class Engine:
    """A kind of peer.

    Attributes:
        title: for tables.
        package: what pip installs.
        module: what must be importable for it.
        open: (file, threads) -> peer.
        chatty: prints, or may end the process: it needs one of its own.
    """

    title: str
    package: str
    module: str
    open: Callable[[Path, int], Peer]
    chatty: bool = True

    @property
    def version(self) -> str:
        """Of the installed package."""
        return version(self.package)


def get_engine(name: str) -> Engine:
    """An engine that is installed.

    Raises:
        UsageError: there is none of this name, or its package is missing.
    """
    engine = ENGINES.get(name)
    if engine is None:
        raise UsageError(f"there is no peer {name}; peers are {', '.join(ENGINES)}")
    if find_spec(engine.module) is None:
        raise UsageError(f"the peer {name} is not installed: run `pip install {engine.package}`")
    return engine


def open_peer(name: str, path: str | os.PathLike[str], threads: int) -> Peer:
    """Load an .onnx file in this process.

    Raises:
        UsageError: as `get_engine`.
        CaptureError: the engine cannot read the file.
    """
    engine = get_engine(name)
    if not Path(path).is_file():
        raise CaptureError(f"there is no file {path}")
    return engine.open(Path(path), threads)


class OnnxRuntime:
    """ONNX Runtime with its default graph optimisations.

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
        self.facts: Mapping[str, object] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            found = cast(list[Array], self._session.run(None, dict(inputs)))
            return dict(zip(self._names, found, strict=True))
        except self._errors as error:
            raise VerificationError(f"ONNX Runtime cannot run the model: {_line(error)}") from error

    def bind(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        self.run(inputs)
        feeds = dict(inputs)
        return lambda: self._session.run(None, feeds)


class OpenVino:
    """OpenVINO: one stream, the latency hint, float32 (its default here is bfloat16).

    Raises:
        CaptureError: the file cannot be read, or is not run in float32.
    """

    def __init__(self, path: Path, threads: int) -> None:
        # Its import loads a package that reports usage; OpenVINO replaces it by a stub where it is missing.
        sys.modules.setdefault("openvino_telemetry", cast(Any, None))
        self._ov: Any = importlib.import_module("openvino")
        hints = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._model: Any = self._ov.Core().compile_model(os.fspath(path), "CPU", hints)
        except RuntimeError as error:
            raise CaptureError(f"OpenVINO cannot read {path}: {_line(error)}") from error
        found = {key: self._model.get_property(key) for key in hints}
        if (
            found["INFERENCE_PRECISION_HINT"] != self._ov.Type.f32
            or found["INFERENCE_NUM_THREADS"] != threads
        ):
            raise CaptureError(f"OpenVINO does not run in float32 on {threads} thread(s): {found}")
        self.facts: Mapping[str, object] = {"precision": "f32", "threads": threads}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        found = self._request(inputs).infer()
        return {port.get_any_name(): np.array(value) for port, value in found.items()}

    def bind(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        request = self._request(inputs)
        request.infer(share_outputs=True)
        return lambda: request.infer(share_outputs=True)

    def _request(self, inputs: Mapping[str, Array]) -> Any:
        request = self._model.create_infer_request()
        try:
            for name, array in inputs.items():
                request.set_tensor(name, self._ov.Tensor(np.ascontiguousarray(array), shared_memory=True))
        except (RuntimeError, TypeError) as error:
            raise VerificationError(f"OpenVINO refuses the inputs: {_line(error)}") from error
        return request


class Mnn:
    """MNN in float32 (precision `high`), sparse where its converter finds more zeros than its threshold.

    That is `mnnconvert --detectSparseSpeedUp`, which stores a layer sparse from 60 % zeros on, and for blocks
    of four outputs a prune algorithm of type SIMD_OC in its compression parameters, from 30 % on (MNN,
    tools/converter/source/common/AddSparseInfo.cpp). On a dense file the option changes nothing.

    Args:
        path: the .onnx file.
        threads: of a run.
        rows: how many consecutive outputs share their zeros; 1 or 4.

    Raises:
        CaptureError: the file cannot be converted.
    """

    def __init__(self, path: Path, threads: int, rows: int = 1) -> None:
        with tempfile.TemporaryDirectory(prefix="sparsecc-mnn-") as folder:
            file = _converted_by_mnn(path, Path(folder), rows)
            self._mnn: Any = importlib.import_module("MNN")
            self._interpreter: Any = self._mnn.Interpreter(os.fspath(file))
            self.facts: Mapping[str, object] = _layers_of_mnn(file.read_bytes())
        options = {"backend": "CPU", "numThread": threads, "precision": "high"}
        self._session: Any = self._interpreter.createSession(options)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.bind(inputs)
        outputs: dict[str, Any] = self._interpreter.getSessionOutputAll(self._session)
        return {name: self._read(tensor) for name, tensor in outputs.items()}

    def bind(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        tensors: dict[str, Any] = self._interpreter.getSessionInputAll(self._session)
        if tensors.keys() != inputs.keys():
            raise VerificationError(f"MNN has the inputs {', '.join(tensors)}, found {', '.join(inputs)}")
        for name, array in inputs.items():
            if tuple(tensors[name].getShape()) != array.shape:
                self._interpreter.resizeTensor(tensors[name], array.shape)
        self._interpreter.resizeSession(self._session)
        # All integers of MNN are of 32 bits. It overwrites its inputs: a run starts by copying them.
        narrow = {k: a.astype(np.int32) if a.dtype == np.int64 else a for k, a in inputs.items()}
        copies = [(tensors[name], self._host(array)) for name, array in narrow.items()]

        def step() -> None:
            for tensor, host in copies:
                tensor.copyFrom(host)
            if self._interpreter.runSession(self._session) != 0:
                raise VerificationError("MNN cannot run the model")

        step()
        return step

    def _read(self, tensor: Any) -> Array:
        shape = tuple(tensor.getShape())
        integer = tensor.getDataType() == self._mnn.Halide_Type_Int
        host = self._host(np.zeros(shape, np.int32 if integer else np.float32))
        tensor.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(shape)

    def _host(self, array: Array) -> Any:
        kinds = {"float32": self._mnn.Halide_Type_Float, "int32": self._mnn.Halide_Type_Int}
        if array.dtype.name not in kinds:
            raise VerificationError(f"MNN takes float32, int32 and int64, found {array.dtype.name}")
        layout = self._mnn.Tensor_DimensionType_Caffe
        return self._mnn.Tensor(array.shape, kinds[array.dtype.name], np.ascontiguousarray(array), layout)


def _converted_by_mnn(path: Path, folder: Path, rows: int) -> Path:
    """What the converter writes, run in a process of its own: it prints, and a bad model may end it."""
    file = folder / "model.mnn"
    words = ["mnnconvert", "-f", "ONNX", "--modelFile", os.fspath(path), "--MNNModel", os.fspath(file)]
    words += ["--bizCode", "sparsecc", "--detectSparseSpeedUp"]
    if rows > 1:
        prune = {"type": "SIMD_OC", "simdOcPrunerParams": {"ocBlocks": [rows]}}
        params = {"version": "0.0.0", "mnnUuid": "0", "algo": [{"type": "PRUNE", "pruneParams": prune}]}
        (folder / "prune.json").write_text(json.dumps(params), encoding="utf-8")
        words += ["--compressionParamsFile", os.fspath(folder / "prune.json")]
    # Not the script `mnnconvert`: what it imports, MNN.tools, installs packages and reports usage.
    code = "import sys, _tools; _tools.mnnconvert(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0 or not file.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CaptureError(f"MNN cannot convert {path}: {said[-1] if said else done.returncode}")
    return file


def _layers_of_mnn(data: bytes) -> dict[str, object]:
    """How many convolutions and linear layers a .mnn file has (depthwise ones aside), how many stored sparse.

    The file is a FlatBuffer; the numbers are those of MNN, schema/default/MNN.fbs and CaffeOp.fbs.
    """
    table: Any = importlib.import_module("flatbuffers.table").Table
    integer: Any = importlib.import_module("flatbuffers.number_types").Int32Flags
    net = table(bytearray(data), int.from_bytes(data[:4], "little"))
    operators, main, kind, sparse = (4 + 2 * field for field in (3, 2, 5, 5))
    convolution = 12
    layers = stored = 0
    start = net.Vector(net.Offset(operators))
    for index in range(net.VectorLen(net.Offset(operators))):
        op = table(net.Bytes, net.Indirect(start + 4 * index))
        if op.Offset(kind) and op.Get(integer, op.Pos + op.Offset(kind)) == convolution:
            layer = table(net.Bytes, op.Indirect(op.Pos + op.Offset(main)))
            layers += 1
            stored += layer.Offset(sparse) != 0
    return {"layers": layers, "sparse_layers": stored}


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
    """The first line that says more than where in OpenVINO's sources it comes from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return next(iter(telling or lines), type(error).__name__)


ENGINES = {
    "onnxruntime": Engine("ONNX Runtime", "onnxruntime", "onnxruntime", OnnxRuntime, chatty=False),
    "openvino": Engine("OpenVINO", "openvino", "openvino", OpenVino),
    "mnn": Engine("MNN", "MNN", "MNN", Mnn),
    "mnn-4x1": Engine("MNN, blocks of 4", "MNN", "MNN", lambda path, threads: Mnn(path, threads, rows=4)),
}
