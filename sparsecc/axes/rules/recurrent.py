"""Recurrent layers: each gate has one row per hidden unit, and the hidden state feeds back.

All gates, both directions and all states share the hidden units; what a unit does not get it does not have,
so one without weights and state stays 0 where the activations keep 0.
"""

from __future__ import annotations

import numpy as np

from sparsecc.axes.context import OpContext
from sparsecc.axes.dims import AxisExpr, expand
from sparsecc.axes.edits import SetAttribute
from sparsecc.axes.rules.registry import Zero, rule

ZERO_AT_ZERO = frozenset({"relu", "tanh", "leakyrelu", "thresholdedrelu", "scaledtanh", "elu", "softsign"})
"""Activations with f(0) = 0, in lower case."""

_STATES = "S[d!,b,h]"


@rule(
    "RNN",
    f"X[t!,b,i] W[d!,h,i] R[d!,h,h] B[d!,(2! h)] n[b] {_STATES} -> Y[t!,d!,b,h] {_STATES}",
    Zero.RECURRENT,
)
def rnn(node: OpContext) -> None:
    """One gate, which is the new state."""
    _recurrent(node, gates=1, states=1, active=(0,), activations=1)


@rule(
    "GRU",
    f"X[t!,b,i] W[d!,(3! h),i] R[d!,(3! h),h] B[d!,(6! h)] n[b] {_STATES} -> Y[t!,d!,b,h] {_STATES}",
    Zero.RECURRENT,
)
def gru(node: OpContext) -> None:
    """Update, reset and hidden gates; the last activation makes the candidate state."""
    _recurrent(node, gates=3, states=1, active=(1,), activations=2)


@rule(
    "LSTM",
    f"X[t!,b,i] W[d!,(4! h),i] R[d!,(4! h),h] B[d!,(8! h)] n[b] {_STATES} {_STATES} P[d!,(3! h)] "
    f"-> Y[t!,d!,b,h] {_STATES} {_STATES}",
    Zero.RECURRENT,
)
def lstm(node: OpContext) -> None:
    """Input, output, forget and cell gates, with peepholes from the cell to the first three."""
    _recurrent(node, gates=4, states=2, active=(1, 2), activations=3)
    if node.has(7):
        hidden = expand(node.axes(2)[2])
        node.unify(node.axes(7)[1], _gates(node, 3) + hidden)
        node.freeze(node.axes(7)[0], "it counts directions", "direction")


def _gates(node: OpContext, count: int) -> AxisExpr:
    return node.fixed(count, "it counts gates", "gate")


def _recurrent(node: OpContext, gates: int, states: int, active: tuple[int, ...], activations: int) -> None:
    """The rule of all three.

    Args:
        node: to unify.
        gates: rows of W per hidden unit.
        states: number of state inputs from 5 on.
        active: activations of one direction that must keep 0 for a unit to stay 0.
        activations: number of activations of one direction.
    """
    data, weight, recurrence = node.axes(0), node.axes(1), node.axes(2)
    batch_first = node.int("layout", 0) == 1
    time, batch = (data[1], data[0]) if batch_first else (data[0], data[1])
    hidden = expand(recurrence[2])
    node.freeze(time, "it counts time steps", "time")
    directions = weight[0]
    stacked = [weight, recurrence]
    node.unify(data[2], weight[2])
    node.contract((0, 2), (1, 2))
    for rows in (weight[1], recurrence[1]):
        node.unify(rows, _gates(node, gates) + hidden)
    if node.has(3):
        node.unify(node.axes(3)[1], _gates(node, 2 * gates) + hidden)
        stacked.append(node.axes(3))
    for axes in stacked:
        node.freeze(axes[0], "it counts directions", "direction")
    if node.has(4):
        node.unify(node.axes(4)[0], batch)
    for number in range(5, 5 + states):
        if node.has(number):
            state = node.axes(number)
            node.freeze(state[1 if batch_first else 0], "it counts directions", "direction")
            node.unify(state[0 if batch_first else 1], batch)
            node.unify(state[2], hidden)
    hidden, batch = expand(hidden), expand(batch)
    node.edit(SetAttribute("hidden_size", hidden))
    node.set(0, (batch, time, directions, hidden) if batch_first else (time, directions, batch, hidden))
    for number in range(1, 1 + states):
        node.set(number, (batch, directions, hidden) if batch_first else (directions, batch, hidden))
    if not _stays_zero(node, states, active, activations):
        node.facts.zero = Zero.LOST
    both = node.concatenate([data[2], hidden])
    node.work(time, batch, directions, _gates(node, gates), hidden, both)


def _stays_zero(node: OpContext, states: int, active: tuple[int, ...], activations: int) -> bool:
    """Whether a hidden unit whose weights are zero stays 0 at all times."""
    names = [name.lower() for name in node.texts("activations")]
    for number, name in enumerate(names):
        if number % activations in active and name not in ZERO_AT_ZERO:
            return False
    for number in range(5, 5 + states):
        if node.has(number):
            state = node.known(number)
            if state is None or np.any(state):
                return False
    return True
