"""The modules that a converted graph needs besides functions: containers for dotted names, and batch norm."""

from __future__ import annotations

import keyword

from torch import Tensor, fx, nn
from torch.nn import functional

BAD_CHARACTERS = str.maketrans({'"': "_", "\\": "_", "\n": "_"})


class BatchNorm(nn.Module):
    """Batch normalisation whose weights are given by the graph (Ioffe and Szegedy 2015).

    In training it normalises with the batch and moves the running statistics; `.eval()` on it freezes them.
    It holds no weights itself, so that they keep the names they have in the graph.

    Args:
        epsilon: added to the variance.
        momentum: share of the new statistics in the running ones, torch's convention.
    """

    def __init__(self, epsilon: float, momentum: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalise x [N, C, ...] over all axes but C."""
        return functional.batch_norm(
            x, mean, variance, scale, bias, self.training, self.momentum, self.epsilon
        )

    def extra_repr(self) -> str:
        """The two numbers, for `print(module)`."""
        return f"epsilon={self.epsilon:g}, momentum={self.momentum:g}"


class Names:
    """Attribute paths for initializers, unique and such that torch takes them.

    `layer.0.weight` stays as it is. A part that is empty or has quotes in it gets `_` in their place; a part
    that torch.nn.Module uses itself, such as `training` or `forward`, or that is a keyword gets one appended,
    as does a name that is also the beginning of another, and one that is taken already.

    Args:
        initializers: names of all initializers.
    """

    def __init__(self, initializers: list[str]) -> None:
        self._taken: set[str] = set()
        self._root = fx.GraphModule(nn.Module(), fx.Graph())
        self._inner = nn.Module()
        self._containers = {"constant"}
        paths = [self._parts(name) for name in initializers]
        for parts in paths:
            self._containers.update(".".join(parts[:end]) for end in range(1, len(parts)))

    def path(self, name: str) -> str:
        """The path for a name; another one each time."""
        path = ".".join(self._parts(name))
        while path in self._taken or path in self._containers:
            path += "_"
        self._taken.add(path)
        return path

    def _parts(self, name: str) -> list[str]:
        parts = [part.translate(BAD_CHARACTERS) or "_" for part in name.split(".")]
        return [self._free(part, self._inner if depth else self._root) for depth, part in enumerate(parts)]

    @staticmethod
    def _free(part: str, owner: nn.Module) -> str:
        while hasattr(owner, part) or keyword.iskeyword(part):
            part += "_"
        return part


def attach(root: nn.Module, path: str, item: Tensor | nn.Module) -> None:
    """Put a parameter, buffer or module at a dotted path, making the containers on the way."""
    *containers, last = path.split(".")
    owner = root
    for part in containers:
        if part not in dict(owner.named_children()):
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    if isinstance(item, nn.Module):
        owner.add_module(last, item)
    elif isinstance(item, nn.Parameter):
        owner.register_parameter(last, item)
    else:
        owner.register_buffer(last, item)


class ConvertedModule(fx.GraphModule):
    """An ONNX graph as a module, in eval mode.

    Attributes:
        initializer_names: name of each parameter and buffer -> name of the initializer it is a copy of.
    """

    initializer_names: dict[str, str]

    def __init__(self, root: nn.Module, graph: fx.Graph, initializer_names: dict[str, str]) -> None:
        graph.eliminate_dead_code(_has_effect)
        graph.lint()
        super().__init__(root, graph, "ConvertedModule")
        held = {name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        self.initializer_names = {path: name for path, name in initializer_names.items() if path in held}
        # fx drops attributes that it does not know when a module is copied, except those under this key.
        self.meta["_user_preserved_attributes"] = {"initializer_names": self.initializer_names}
        self.eval()


def _has_effect(node: fx.Node) -> bool:
    return node.op in ("placeholder", "output")


def parameter_or_buffer(tensor: Tensor, trained: bool) -> Tensor:
    """The tensor as a parameter if it is to be trained."""
    return nn.Parameter(tensor) if trained else tensor
