"""LSTM, GRU and RNN, and their table: torch's own where the options allow, else step by step.

ONNX stacks the gates of a layer as i o f c (LSTM) and z r h (GRU), torch as i f g o and r z n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.op import Op

Activation = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, list[Tensor], int], list[Tensor]]
"""One step: projected input [B, gates * H], states [B, H] each, direction -> new states, the output first."""

DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
LSTM_ORDER = (0, 2, 3, 1)
GRU_ORDER = (1, 0, 2)


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """A function by its ONNX name, with the defaults of the ops of those names."""
    a = {"leakyrelu": 0.01, "hardsigmoid": 0.2}.get(name.lower(), 1.0) if alpha is None else alpha
    b = {"hardsigmoid": 0.5, "affine": 0.0}.get(name.lower(), 1.0) if beta is None else beta
    known: dict[str, Activation] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softsign": functional.softsign,
        "softplus": functional.softplus,
        "affine": lambda x: a * x + b,
        "leakyrelu": lambda x: functional.leaky_relu(x, a),
        "thresholdedrelu": lambda x: torch.where(x > a, x, torch.zeros_like(x)),
        "scaledtanh": lambda x: a * torch.tanh(b * x),
        "hardsigmoid": lambda x: torch.clamp(a * x + b, 0, 1),
        "elu": lambda x: functional.elu(x, a),
    }
    if name.lower() not in known:
        raise UnsupportedOpError(
            f"{name} is no activation of a recurrent layer; use one of {', '.join(known)}"
        )
    return known[name.lower()]


def _activations(
    op: str,
    directions: int,
    names: Sequence[str] | None,
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
) -> list[list[Activation]]:
    """For each direction its functions; alphas and betas go to the functions in order."""
    given = list(names) if names else [*DEFAULTS[op]] * directions
    each = len(given) // directions
    made = [
        _activation(
            name,
            alphas[i] if alphas and i < len(alphas) else None,
            betas[i] if betas and i < len(betas) else None,
        )
        for i, name in enumerate(given)
    ]
    return [made[d * each : (d + 1) * each] for d in range(directions)]


def _usual(op: str, names: Sequence[str] | None) -> bool:
    defaults = [name.lower() for name in DEFAULTS[op]]
    return not names or [n.lower() for n in names] == defaults * (len(names) // len(defaults))


def _reordered(x: Tensor, order: Sequence[int]) -> Tensor:
    """Blocks of rows in torch's order."""
    blocks = x.chunk(len(order), 0)
    return torch.cat([blocks[place] for place in order])


def _flat_weights(w: Tensor, r: Tensor, b: Tensor | None, order: Sequence[int]) -> list[Tensor]:
    """torch's list of weights: per direction input, hidden, and their biases."""
    flat: list[Tensor] = []
    for d in range(w.shape[0]):
        flat += [_reordered(w[d], order), _reordered(r[d], order)]
        if b is not None:
            flat += [_reordered(half, order) for half in b[d].chunk(2)]
    return flat


def _initial(given: Tensor | None, x: Tensor, directions: int, hidden: int) -> Tensor:
    return x.new_zeros(directions, x.shape[1], hidden) if given is None else given


def _scan(
    x: Tensor,
    w: Tensor,
    wb: Tensor | None,
    states: list[Tensor],
    cell: Cell,
    direction: str,
    lengths: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Run a cell over time: x [T, B, I], w [D, gates * H, I], states [D, B, H] each.

    Returns all outputs [T, D, B, H] and the last states; after its length a sequence keeps its state and puts
    out zeros.
    """
    ends: list[list[Tensor]] = []
    sides: list[Tensor] = []
    for d in range(w.shape[0]):
        backwards = direction == "reverse" or d == 1
        projected = x @ w[d].t()
        projected = projected if wb is None else projected + wb[d]
        now = [state[d] for state in states]
        steps: list[Tensor] = [x] * x.shape[0]
        for t in range(x.shape[0])[:: -1 if backwards else 1]:
            new = cell(projected[t], now, d)
            out = new[0]
            if lengths is not None:
                alive = (t < lengths).unsqueeze(1)
                new = [torch.where(alive, a, b) for a, b in zip(new, now, strict=True)]
                out = torch.where(alive, out, torch.zeros_like(out))
            steps[t], now = out, new
        sides.append(torch.stack(steps))
        ends.append(now)
    return torch.stack(sides, 1), [torch.stack(side) for side in zip(*ends, strict=True)]


def _in_order(y: Tensor, last: list[Tensor], layout: int, outputs: int) -> Tensor | tuple[Tensor, ...]:
    """[T, D, B, H] and [D, B, H], or batch first."""
    if layout:
        y, last = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
    return y if outputs == 1 else (y, *last)[:outputs]


def _split_directions(y: Tensor, directions: int) -> Tensor:
    """torch's [T, B, D * H] as [T, D, B, H]."""
    return y.unflatten(2, (directions, y.shape[2] // directions)).transpose(1, 2)


def _clipped(x: Tensor, limit: float | None) -> Tensor:
    return x if not limit else x.clamp(-limit, limit)


def _batch_second(
    x: Tensor, states: Sequence[Tensor | None], layout: int
) -> tuple[Tensor, list[Tensor | None]]:
    if not layout:
        return x, list(states)
    return x.transpose(0, 1), [state if state is None else state.transpose(0, 1) for state in states]


def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    input_forget: int = 0,
    layout: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Long short-term memory: x [T, B, I], w [D, 4 H, I], r [D, 4 H, H], b [D, 8 H], peepholes p [D, 3 H]."""
    directions, hidden = w.shape[0], r.shape[2]
    x, (initial_h, initial_c) = _batch_second(x, (initial_h, initial_c), layout)
    h, c = _initial(initial_h, x, directions, hidden), _initial(initial_c, x, directions, hidden)
    plain = sequence_lens is None and p is None and not clip and not input_forget
    if plain and direction != "reverse" and _usual("LSTM", activations):
        weights = _flat_weights(w, r, b, LSTM_ORDER)
        y, h, c = torch.lstm(x, [h, c], weights, b is not None, 1, 0.0, False, directions == 2, False)
        return _in_order(_split_directions(y, directions), [h, c], layout, outputs)
    functions = _activations("LSTM", directions, activations, activation_alpha, activation_beta)
    wb, rb = (None, None) if b is None else b.chunk(2, 1)

    def cell(projected: Tensor, states: list[Tensor], d: int) -> list[Tensor]:
        f, g, output = functions[d]
        before, memory = states
        gates = projected + before @ r[d].t()
        gates = gates if rb is None else gates + rb[d]
        i, o, forget, new = _clipped(gates, clip).chunk(4, 1)
        peep = (0.0, 0.0, 0.0) if p is None else p[d].chunk(3)
        entry = f(i + peep[0] * memory)
        kept = 1 - entry if input_forget else f(forget + peep[2] * memory)
        memory = kept * memory + entry * g(new)
        return [f(o + peep[1] * memory) * output(memory), memory]

    y, last = _scan(x, w, wb, [h, c], cell, direction, sequence_lens)
    return _in_order(y, last, layout, outputs)


def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Gated recurrent unit: x [T, B, I], w [D, 3 H, I], r [D, 3 H, H], b [D, 6 H]."""
    directions, hidden = w.shape[0], r.shape[2]
    x, (initial_h,) = _batch_second(x, (initial_h,), layout)
    h = _initial(initial_h, x, directions, hidden)
    if (
        sequence_lens is None
        and not clip
        and linear_before_reset
        and direction != "reverse"
        and _usual("GRU", activations)
    ):
        weights = _flat_weights(w, r, b, GRU_ORDER)
        y, h = torch.gru(x, h, weights, b is not None, 1, 0.0, False, directions == 2, False)
        return _in_order(_split_directions(y, directions), [h], layout, outputs)
    functions = _activations("GRU", directions, activations, activation_alpha, activation_beta)
    wb, rb = (None, None) if b is None else b.chunk(2, 1)

    def cell(projected: Tensor, states: list[Tensor], d: int) -> list[Tensor]:
        f, g = functions[d]
        (before,) = states
        z, reset, new = projected.chunk(3, 1)
        rz, rr, rh = r[d].chunk(3)
        bz, br, bh = (0.0, 0.0, 0.0) if rb is None else rb[d].chunk(3)
        z = f(_clipped(z + before @ rz.t() + bz, clip))
        reset = f(_clipped(reset + before @ rr.t() + br, clip))
        inner = reset * (before @ rh.t() + bh) if linear_before_reset else (reset * before) @ rh.t() + bh
        return [(1 - z) * g(_clipped(new + inner, clip)) + z * before]

    y, last = _scan(x, w, wb, [h], cell, direction, sequence_lens)
    return _in_order(y, last, layout, outputs)


def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    layout: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Simple recurrent layer: x [T, B, I], w [D, H, I], r [D, H, H], b [D, 2 H]."""
    directions, hidden = w.shape[0], r.shape[2]
    x, (initial_h,) = _batch_second(x, (initial_h,), layout)
    h = _initial(initial_h, x, directions, hidden)
    if sequence_lens is None and not clip and direction != "reverse" and _usual("RNN", activations):
        weights = _flat_weights(w, r, b, (0,))
        y, h = torch.rnn_tanh(x, h, weights, b is not None, 1, 0.0, False, directions == 2, False)
        return _in_order(_split_directions(y, directions), [h], layout, outputs)
    functions = _activations("RNN", directions, activations, activation_alpha, activation_beta)
    wb, rb = (None, None) if b is None else b.chunk(2, 1)

    def cell(projected: Tensor, states: list[Tensor], d: int) -> list[Tensor]:
        total = projected + states[0] @ r[d].t()
        total = total if rb is None else total + rb[d]
        return [functions[d][0](_clipped(total, clip))]

    y, last = _scan(x, w, wb, [h], cell, direction, sequence_lens)
    return _in_order(y, last, layout, outputs)


OPS = {
    "GRU": Op(gru),
    "LSTM": Op(lstm),
    "RNN": Op(rnn),
}
