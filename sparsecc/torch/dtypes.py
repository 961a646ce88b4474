"""Element types and tensors, from ONNX to torch."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from sparsecc.errors import UnsupportedOpError

TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
}


def torch_dtype(dtype: ir.DataType, where: str) -> torch.dtype:
    """The torch element type.

    Args:
        dtype: of ONNX.
        where: what has this type, for the message.

    Raises:
        UnsupportedOpError: torch computes nothing in it, such as strings, 4-bit and wide unsigned types.
    """
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        raise UnsupportedOpError(
            f"{where} is of type {dtype.name.lower()}, which PyTorch has no arithmetic for; "
            f"cast it to float32 before converting the model"
        )
    return found


def tensor_of(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A copy of an ONNX tensor, so that training on changes no model.

    Raises:
        UnsupportedOpError: a type that torch has no arithmetic for.
    """
    dtype = torch_dtype(tensor.dtype, f"tensor {tensor.name}")
    array = np.array(tensor.numpy(), order="C")
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
