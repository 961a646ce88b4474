"""What a row of the op table says: which function computes an ONNX op and in which form it takes inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

SUPPLIED = frozenset(("outputs", "device", "output_dtype"))
"""Keywords that the converter fills in: how many outputs are asked for (a function that takes it answers
with a tuple where there is more than one), the device of the module's inputs, the first output's
type."""


@dataclass(frozen=True)
class Op:
    """One row of the op table.

    Attributes:
        function: one of a module, since the code of an fx graph refers to it by name. It takes the op's
            inputs in order, None for those left out, and the attributes by their ONNX names.
        numbers: positions of inputs that it takes as Python numbers or lists of them.
        constants: positions of inputs that it takes as a Python number where the input is a known scalar, and
            as a tensor where not.
        pure: the same inputs give the same outputs, so it may be computed when the module is made.
    """

    function: Callable[..., Any]
    numbers: tuple[int, ...] = ()
    constants: tuple[int, ...] = ()
    pure: bool = True

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The function's parameters; none for torch's builtins, which take tensors only."""
        try:
            return inspect.signature(self.function).parameters
        except ValueError:
            return {}

    @cached_property
    def keywords(self) -> frozenset[str]:
        """Names of keyword-only parameters: the attributes that it understands, and those of `SUPPLIED`."""
        kinds = self.parameters.values()
        return frozenset(item.name for item in kinds if item.kind is inspect.Parameter.KEYWORD_ONLY)

    @cached_property
    def required(self) -> frozenset[str]:
        """Attributes that have no default."""
        empty = inspect.Parameter.empty
        return frozenset(n for n in self.keywords - SUPPLIED if self.parameters[n].default is empty)

    @cached_property
    def most_inputs(self) -> int | None:
        """How many inputs it takes, None where there is no limit or no signature to read."""
        kinds = [item.kind for item in self.parameters.values()]
        if not kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
            return None
        return sum(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
