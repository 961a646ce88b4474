"""`sparsecc eval`: perplexity, accuracy, agreement or similarity on data, with confidence intervals."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from sparsecc.cli.options import Verbs, add_evaluation, add_source, add_verb, read_shapes
from sparsecc.cli.progress import Progress

if TYPE_CHECKING:
    from sparsecc.evaluation import Estimate

_DETAILS = """\
Runs the model in ONNX Runtime on data that no calibration has seen and draws the samples again with
replacement for an interval that holds 95 % of the draws. With --reference the other model is measured on the
same draws, and the difference has an interval of its own, which is narrower than those of the two.

perplexity      of ids in `target`, or of each input id given those before it
classification  per cent of samples whose class is that in `target`
agreement       per cent of places with the reference's class
similarity      correlation of cosines with `target` [samples, samples], or mean cosine with the reference"""
_EXAMPLES = """\
  sparsecc eval sparse.onnx --data test.npz --task classification --reference dense.onnx
  sparsecc eval sparse.onnx --data photos.npz --task agreement --reference dense.onnx
  sparsecc eval decoder.onnx --data news.npz --task perplexity"""


def add(verbs: Verbs) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "eval", "measure what a model's outputs are worth on data", _DETAILS, _EXAMPLES)
    add_source(parser)
    add_evaluation(parser)
    parser.add_argument("--reference", metavar="SOURCE", help="the dense model, to compare with")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="draws (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from sparsecc.cli.source import read_model
    from sparsecc.evaluation import UNITS, evaluate
    from sparsecc.passes.criteria.calibration import read_calibration

    shapes = read_shapes(args.shape)
    with Progress() as progress:
        progress("capture", 0, 1)
        model = read_model(args.source, shapes)
        reference = read_model(args.reference, shapes) if args.reference else None
        inputs = [value.name or "" for value in model.graph.inputs]
        data = read_calibration(args.data, "--data", inputs)
        progress("evaluate", 0, 1)
        found = evaluate(
            model, args.task, data, reference=reference, seed=args.seed, resamples=args.resamples
        )
    parts = {"score": found.score, "reference": found.reference, "difference": found.difference}
    shown = {name: part for name, part in parts.items() if part is not None}
    if args.json:
        numbers = {name: vars(part) for name, part in shown.items()}
        print(json.dumps({"task": found.task, "samples": found.samples, "seed": args.seed, **numbers}))
        return 0
    draws = f"95 % of {args.resamples} draws with seed {args.seed} in brackets"
    print(f"{found.task}, {found.samples} samples, {draws}")
    for name, part in shown.items():
        print(f"  {name:11} {_text(part, UNITS[found.task])}")
    return 0


def _text(part: Estimate, unit: str) -> str:
    return f"{part.value:.4g}{unit} [{part.low:.4g}, {part.high:.4g}]"
