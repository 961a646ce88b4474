"""From an ONNX file to an artifact: sparsify, compile, run, compare with ONNX Runtime.

python examples/01_compile_onnx.py [model.onnx]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc.arrays import random_arrays
from sparsecc.side_by_side import side_by_side


def small_model(path: Path) -> Path:
    """Two pointwise convolutions, for when no file is given."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((128, 128, 1, 1)).astype(np.float32) / 11 for _ in range(2))
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    shape = [1, 128, 28, 28]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(a, "a"), numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


with tempfile.TemporaryDirectory() as folder:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else small_model(Path(folder) / "small.onnx")

    model = sparsecc.capture(source)
    result = sparsecc.sparsify(model, pattern="4x1", sparsity=0.8)
    artifact = sparsecc.compile(result.model, out=Path(folder) / "model.scc")
    for layer in artifact.report.layers:
        print(f"{layer.name:12} {layer.shape:28} {layer.pattern:6} {layer.kernel}: {layer.reason}")

    with artifact.load(threads=1) as session:
        outputs = session.run(random_arrays(session.inputs, seed=0))
    print({name: array.shape for name, array in outputs.items()})

    times = side_by_side(artifact.path, source, runs=30)
    print(f"time over ONNX Runtime on the dense model: {times.ratio:.2f}")
