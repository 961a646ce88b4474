"""Conventions on onnx_ir: encodings, weights, provenance, verifier, text dump, evaluation.

The graph of the whole project is an `onnx_ir.Model` at one pinned opset; nothing here wraps it.
"""

from sparsecc.ir.dump import dump
from sparsecc.ir.encoding import Encoding, encoding_of, get_encoding, set_encoding
from sparsecc.ir.evaluate import Evaluator, evaluate, random_inputs
from sparsecc.ir.fused import FUSED_DOMAIN, FusedParts, fused_parts, is_fused
from sparsecc.ir.opset import IR_VERSION, OPSET
from sparsecc.ir.shapes import infer_shapes, specialize_shapes, static_shape
from sparsecc.ir.verify import Violation, check, verify
from sparsecc.ir.weights import WeightUse, weight_uses

__all__ = [
    "FUSED_DOMAIN",
    "IR_VERSION",
    "OPSET",
    "Encoding",
    "Evaluator",
    "FusedParts",
    "Violation",
    "WeightUse",
    "check",
    "dump",
    "encoding_of",
    "evaluate",
    "fused_parts",
    "get_encoding",
    "infer_shapes",
    "is_fused",
    "random_inputs",
    "set_encoding",
    "specialize_shapes",
    "static_shape",
    "verify",
    "weight_uses",
]
