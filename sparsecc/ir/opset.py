"""The one opset that every captured model is at, and the file format version that goes with it."""

OPSET = 23
"""Version of the default ONNX domain; 23 is the first with RMSNormalization."""

IR_VERSION = 11
"""ONNX file format version; 10 is the first with function overloads and per-value metadata."""
