"""An ONNX graph as a PyTorch module, to fine-tune it, take gradients and capture it again.

onnx_ir.Model -to_torch-> fx.GraphModule -train-> capture -> onnx_ir.Model with the same initializer names
"""

from sparsecc.torch.convert import to_torch

__all__ = ["to_torch"]
