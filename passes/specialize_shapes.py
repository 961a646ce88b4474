"""Fix the shapes of inputs, so that every dimension of the graph is a number.

x: float32[batch,3,8,8], shapes=x:1x3x8x8  ->  x: float32[1,3,8,8], and all others inferred
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from sparsecc.errors import UsageError
from sparsecc.ir.shapes import require_static, specialize_shapes
from sparsecc.passes.base import Context, Pass, PassResult
from sparsecc.passes.fold_constants import FoldConstants

MAX_ROUNDS = 8


@dataclass(frozen=True)
class SpecializeShapes(Pass):
    """Set input shapes, fold the arithmetic on shapes, and demand that no symbolic dimension is left.

    Options:
        shapes: items `input:DxDxD`; inputs that are static already need none.
    """

    shapes: tuple[str, ...] = ()

    name: ClassVar[str] = "specialize-shapes"
    summary: ClassVar[str] = "fix input shapes and infer all others"

    def __post_init__(self) -> None:
        self.dims()

    def dims(self) -> dict[str, tuple[int, ...]]:
        """Input name -> dims.

        Raises:
            UsageError: an item is not `input:DxDxD`.
        """
        found: dict[str, tuple[int, ...]] = {}
        for item in self.shapes:
            name, _, dims = item.rpartition(":")
            numbers = dims.split("x") if dims else []
            if not name or not all(number.isascii() and number.isdigit() for number in numbers):
                raise UsageError(f"shape {item!r} is not of the form input:1x3x224x224")
            found[name] = tuple(int(number) for number in numbers)
        return found

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Specialise `model`.

        Raises:
            UsageError: shapes that do not fit the inputs.
            UnsupportedOpError: a dimension stays symbolic.
        """
        before = [str(value.shape) for value in model.graph.inputs]
        specialize_shapes(model, self.dims())
        folder = FoldConstants()
        folded = False
        for _ in range(MAX_ROUNDS):
            if not folder.apply(model, ctx).changed:
                break
            folded = True
        require_static(model)
        after = [str(value.shape) for value in model.graph.inputs]
        return PassResult(changed=folded or before != after)
