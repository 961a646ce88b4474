"""Does the pruned model compute what the original computes with the removed slices zeroed?

Three runs on the same inputs: the original as it is, the original masked, and the pruned model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from sparsecc.oracle.execution import RunError, cast_inputs, drawn_inputs, run
from sparsecc.oracle.masking import disagreements, mask_network, masked_tensors, probes
from sparsecc.oracle.network import Network, NetworkError, Precision, Tensors, dismantle, is_float
from sparsecc.oracle.plan import Kept, Plan, PlanError, misfit, take
from sparsecc.oracle.weights import WeightRoles, enlarged, sliced_alike

EXTINGUISHED = 1e-6
"""An output that masking leaves smaller than this share of itself is measured against the share."""

SQUASHING = ("Softmax", "Sigmoid", "Tanh", "ArgMax", "ArgMin")

Outputs = Mapping[str, list[np.ndarray]]


@dataclass(frozen=True)
class OracleResult:
    """What the oracle found.

    Attributes:
        difference: largest |pruned - masked| of any output, relative to that output's largest |masked|;
            infinite where the outputs cannot be compared. What a Softmax, Sigmoid, Tanh or ArgMax that is
            an output reads counts as an output.
        moved: largest |masked - original| likewise, relative to the largest |original|. Zero means that the
            comparison would have been passed without pruning anything.
        taken: every tensor that both models carry is exactly `np.take` of the original's at the positions of
            the plan; floats that the plan does not name are equal.
        enlarged: whether the runs used enlarged random weights.
        problems: all that is wrong besides the numbers, each a sentence.
    """

    difference: float
    moved: float
    taken: bool
    enlarged: bool
    problems: tuple[str, ...] = ()

    def passed(self, tolerance: float, *, vacuous: bool = False) -> bool:
        """Whether the pruned model equals the masked original.

        Args:
            tolerance: largest difference allowed.
            vacuous: accept a plan whose masking moves no output.
        """
        return (
            self.taken and not self.problems and self.difference <= tolerance and (vacuous or self.moved > 0)
        )


def check(
    original: ModelProto,
    pruned: ModelProto,
    plan: Mapping[str, object],
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    seed: int = 0,
    enlarge: bool = True,
    precision: Precision = "float32",
) -> OracleResult:
    """Compare a pruned model with the original masked by the plan.

    The weights that both models carry get enlarged random values, the pruned model the slices of the same
    ones, so that no zero bias or unit scale hides a mistake; weights that are not exact slices keep their
    own values in both. Where the original does not stay finite on enlarged values, its own are used.

    Args:
        original: the model before pruning; not changed.
        pruned: the model after pruning, with the same inputs and outputs; not changed.
        plan: `{"format": 1, "kept": {initializer: {axis: [positions]}}, "normalizations": {first output of
            a node: {axis of its first input: [positions]}}, "constants": {tensor: {axis: [positions]}}}`.
        inputs: by name, in the shapes of the graph; None draws them, with 2 for symbolic dimensions.
        seed: of inputs and enlarged weights.
        enlarge: False compares on the weights as they are.
        precision: float32 runs in ONNX Runtime without optimisations, float64 in ONNX's reference
            evaluator, with all narrower floats of both models widened.

    Returns:
        The differences, and whatever is wrong with models or plan as problems.

    Raises:
        ValueError: a precision that is not known.
    """
    if precision not in ("float32", "float64"):
        raise ValueError(f"precision is float32 or float64, not {precision!r}")
    try:
        parsed = Plan.parse(plan)
        before, after = dismantle(original, precision), dismantle(pruned, precision)
        given = drawn_inputs(before, seed) if inputs is None else cast_inputs(before, inputs)
        computed = _computed(dismantle(original, "float32"), after, parsed, given)
        before = before.with_constants(computed)
    except (PlanError, NetworkError, RunError) as error:
        return OracleResult(math.inf, 0.0, False, False, (str(error),))
    fitting, problems = _fitting(before, parsed)
    wrong, sentences = _not_taken(before, after, fitting.sliced)
    if enlarge:
        weights = enlarged(before, after, fitting.sliced, seed, computed)
        weights = {name: array for name, array in weights.items() if name not in wrong}
        result = _compare(before, after, fitting, given, weights)
        if result is not None:
            return _finished(result, problems + sentences, taken=not sentences)
    result = _compare(before, after, fitting, given, {})
    if result is None:
        result = OracleResult(math.inf, 0.0, False, False, ("the original gives NaN or infinity",))
    return _finished(result, problems + sentences, taken=not sentences)


def _computed(original: Network, pruned: Network, plan: Plan, inputs: Tensors) -> Tensors:
    """What the original computes from constants and the pruned model carries, or the plan slices.

    In single precision, in which such constants are folded.
    """
    made = {name for node in original.proto.graph.node for name in node.output if name}
    carried = {name for name in (*pruned.tensors, *plan.constants) if name in made}
    names = sorted((carried & original.static()) - set(original.outputs))
    if not names:
        return {}
    found = run(original, original.tensors, cast_inputs(original, inputs), names)
    return {name: array for name, (array,) in found.items()}


def _finished(result: OracleResult, problems: list[str], taken: bool) -> OracleResult:
    return OracleResult(
        result.difference, result.moved, taken, result.enlarged, (*problems, *result.problems)
    )


def _fitting(network: Network, plan: Plan) -> tuple[Plan, list[str]]:
    """The plan without tensors that it does not fit, and sentences on these."""
    problems: list[str] = []
    made = {name for node in network.proto.graph.node for name in node.output}
    sections: list[dict[str, Kept]] = []
    for section in (plan.kept, plan.constants):
        good: dict[str, Kept] = {}
        for name, kept in section.items():
            tensor = network.tensors.get(name)
            if tensor is None:
                what = "depends on the inputs" if name in made else "is no tensor of the original"
                problems.append(f"the plan slices {name}, which {what}")
            elif (wrong := misfit(kept, tensor.shape)) is not None:
                problems.append(f"the plan does not fit {name}: {wrong}")
            else:
                good[name] = kept
        sections.append(good)
    for name in sections[0].keys() & sections[1].keys():
        problems.append(f"the plan slices {name} both as an initializer and as a constant")
    return Plan(sections[0], plan.normalizations, sections[1]), problems


def _not_taken(before: Network, after: Network, sliced: Mapping[str, Kept]) -> tuple[set[str], list[str]]:
    """Tensors of the pruned model that are not what the plan takes from the original, and sentences."""
    names: set[str] = set()
    problems: list[str] = []
    for name, found in after.tensors.items():
        tensor = before.tensors.get(name)
        if tensor is None or (name not in sliced and not is_float(tensor)):
            continue  # shapes and indices are rewritten; the numbers judge them
        expected = take(tensor, sliced.get(name, {}))
        if expected.dtype != found.dtype or expected.shape != found.shape:
            problems.append(
                f"{name} of the pruned model is {found.dtype}{list(found.shape)}, where the plan takes "
                f"{expected.dtype}{list(expected.shape)} from the original"
            )
        elif not np.array_equal(_bytes(expected), _bytes(found)):
            count = int(np.count_nonzero(expected != found))
            problems.append(
                f"{name} of the pruned model is not what the plan takes from the original: {count} of "
                f"{found.size} elements differ"
            )
        else:
            continue
        names.add(name)
    return names, problems


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _compare(
    before: Network, after: Network, plan: Plan, inputs: Tensors, weights: Tensors
) -> OracleResult | None:
    """The runs and their differences; None if the original does not stay finite.

    Args:
        before: the original.
        after: the pruned model.
        plan: one that fits all tensors.
        inputs: of both.
        weights: values that replace the original's, and by their slices the pruned model's.
    """
    own = {**before.tensors, **weights}
    if before.outputs != after.outputs:
        sentence = f"the outputs of the pruned model are {after.outputs}, not {before.outputs}"
        return OracleResult(math.inf, 0.0, False, bool(weights), (sentence,))
    names = _observed(before, after)
    wanted, needed = probes(before, plan)
    try:
        base, shapes, elements = _probed(before, own, inputs, names, wanted, needed)
    except RunError as error:
        return OracleResult(math.inf, 0.0, False, bool(weights), (f"the original does not run; {error}",))
    if not all(_finite(array) for arrays in base.values() for array in arrays):
        return None
    masked_graph = before.copy()
    problems = mask_network(masked_graph, plan, shapes, elements) + disagreements(before, plan, shapes)
    tensors = masked_tensors({**masked_graph.tensors, **weights}, plan.sliced, WeightRoles(before))
    try:
        masked = run(masked_graph, tensors, inputs, names)
    except RunError as error:
        problems.append(f"the masked original does not run; {error}")
        return OracleResult(math.inf, 0.0, False, bool(weights), tuple(problems))
    moved, incomparable = _difference(masked, base, base)
    problems += [f"{name} of the masked original {what}" for name, what in incomparable]
    slices = sliced_alike({name: own[name] for name in weights}, plan.sliced)
    try:
        found = run(after, {**after.tensors, **slices}, inputs, names)
    except RunError as error:
        problems.append(f"the pruned model does not run; {error}")
        return OracleResult(math.inf, moved, False, bool(weights), tuple(problems))
    difference, incomparable = _difference(found, masked, base)
    problems += [f"{name} of the pruned model {what}" for name, what in incomparable]
    return OracleResult(difference, moved, False, bool(weights), tuple(problems))


def _observed(before: Network, after: Network) -> list[str]:
    """Outputs, and what both models read for those that are squashed, which would hide large differences."""
    names = list(before.outputs)
    remaining = {name for node in after.proto.graph.node for name in node.output}
    for node in before.proto.graph.node:
        if node.op_type in SQUASHING and node.output[0] in before.outputs and node.input[0] in remaining:
            names.append(node.input[0])
    return list(dict.fromkeys(names))


def _probed(
    network: Network,
    tensors: Tensors,
    inputs: Tensors,
    outputs: list[str],
    wanted: list[str],
    needed: list[str],
) -> tuple[Outputs, dict[str, tuple[int, ...]], Tensors]:
    """Outputs, the shapes of the wanted values and the elements of the needed ones, of one run."""
    probing = network.copy()
    of = {name: f"{name}/shape" for name in wanted}
    for name, shape in of.items():
        probing.proto.graph.node.add(op_type="Shape", input=[name], output=[shape])
    names = list(dict.fromkeys([*outputs, *of.values(), *needed]))
    found = run(probing, tensors, inputs, names)
    shapes = {name: tuple(int(size) for size in found[shape][0]) for name, shape in of.items()}
    return {name: found[name] for name in outputs}, shapes, {name: found[name][0] for name in needed}


def _finite(array: np.ndarray) -> bool:
    return not is_float(array) or bool(np.isfinite(array).all())


def _difference(found: Outputs, expected: Outputs, original: Outputs) -> tuple[float, list[tuple[str, str]]]:
    """The largest relative difference, and outputs that have none with the reason."""
    largest, problems = 0.0, list[tuple[str, str]]()
    for name, references in expected.items():
        if len(found[name]) != len(references):
            problems.append((name, f"has {len(found[name])} elements, where {len(references)} are expected"))
            largest = math.inf
            continue
        scales = [_largest(array) for array in original[name]]
        for array, reference in zip(found[name], references, strict=True):
            if array.shape != reference.shape:
                problems.append((name, f"has shape {list(array.shape)}, not {list(reference.shape)}"))
                largest = math.inf
            elif not _finite(array):
                problems.append((name, "holds NaN or infinity"))
                largest = math.inf
            elif not _finite(reference):
                largest = math.inf
            else:
                distance = _largest(array.astype(np.float64) - reference.astype(np.float64))
                scale = max(_largest(reference), EXTINGUISHED * max(scales, default=0.0))
                largest = max(largest, distance / scale if scale > 0 else distance)
    return largest, problems


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array.astype(np.float64)).max()) if array.size else 0.0
