"""What happens to an accumulator before it is stored: an expression over vectors, written once.

An epilogue is a list of ops in static single assignment form over the accumulator, scalar constants,
per-row constants and same-layout tensors (the residual); each kernel family applies it to its registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsecc.targets.kernels import vector_math
from sparsecc.targets.kernels.codes import byte_of
from sparsecc.targets.tir import KernelBuilder, Pointer, const, vector_of


@dataclass(frozen=True)
class Operand:
    """An operand of an epilogue op.

    kind: "step" (the result of step `index`; step 0 is the accumulator), "constant" (`value`), "row"
    (pointer `index`, one value per output row), "tensor" (pointer `index`, laid out as the output) or "codes"
    (the same in words of 8-bit codes, whose numbers are taken).
    """

    kind: str
    index: int = 0
    value: float = 0.0


@dataclass(frozen=True)
class EpilogueOp:
    """One ONNX elementwise op; `attributes` are its float attributes by name."""

    op: str
    operands: tuple[Operand, ...]
    attributes: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Epilogue:
    """The ops in order; `row_pointers` and `tensor_pointers` say how many of each kind there are."""

    ops: tuple[EpilogueOp, ...] = ()
    row_pointers: int = 0
    tensor_pointers: int = 0


class EpilogueOperands:
    """An epilogue's parameters in one kernel under construction."""

    def __init__(self, builder: KernelBuilder, epilogue: Epilogue) -> None:
        self._b = builder
        self._epilogue = epilogue
        self._rows: list[Pointer] = [builder.pointer(f"row_operand{i}") for i in range(epilogue.row_pointers)]
        coded = {o.index for op in epilogue.ops for o in op.operands if o.kind == "codes"}
        self._tensors: list[Pointer] = [
            builder.pointer(f"residual{i}", "int32" if i in coded else "float32")
            for i in range(epilogue.tensor_pointers)
        ]
        self._strides: list[Any] = []

    def declare_scalars(self) -> None:
        """Declare each tensor operand's batch stride; call it where the kernel's scalars are declared."""
        self._strides = [self._b.scalar(f"residual_batch{i}") for i in range(self._epilogue.tensor_pointers)]

    def apply(
        self,
        value: Any,
        *,
        row: Any,
        index: Any,
        batch: Any,
        lanes: int,
        rows_in_lanes: bool = False,
        byte: int = 0,
    ) -> Any:
        """The stored value for an accumulator.

        Args:
            row: output row; the first one where the lanes run along rows.
            index: element index of the first lane in the output's layout, batch 0.
            byte: of a word, where the row's codes lie.
        """
        if not self._epilogue.ops:
            return value
        steps: list[Any] = [self._b.register(value, lanes).value]
        for op in self._epilogue.ops:
            arguments = []
            for operand in op.operands:
                if operand.kind == "step":
                    arguments.append(steps[operand.index])
                elif operand.kind == "constant":
                    arguments.append(vector_of(const(operand.value, "float32"), lanes))
                elif operand.kind == "row":
                    pointer = self._rows[operand.index]
                    arguments.append(
                        pointer.vector(row, lanes) if rows_in_lanes else vector_of(pointer[row], lanes)
                    )
                else:
                    stride = self._strides[operand.index]
                    loaded = self._tensors[operand.index].vector(index + batch * stride, lanes)
                    arguments.append(byte_of(loaded, byte, lanes) if operand.kind == "codes" else loaded)
            result = vector_math.OPS[op.op](self._b, arguments, dict(op.attributes), lanes)
            steps.append(self._b.register(result, lanes).value)
        return steps[-1]

    def store_rows(self, y: Any, total: Any, block: Any, column: Any, lanes: int) -> None:
        """Finish and store sums whose lanes are the rows of a block; `column` is where it begins in Y."""
        row = block * lanes
        out = self.apply(total, row=row, index=column + row, batch=const(0), lanes=lanes, rows_in_lanes=True)
        self._b.store(y, column + row, out, lanes)
