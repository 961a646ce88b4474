"""Options that several verbs share, and their readers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sparsecc.errors import UsageError

if TYPE_CHECKING:
    from sparsecc.passes.hooks import Hook


class Verbs(Protocol):
    """What argparse's `add_subparsers` returns, as far as verbs need it."""

    def add_parser(self, name: str, **options: object) -> argparse.ArgumentParser: ...


def add_verb(verbs: Verbs, name: str, summary: str, details: str, examples: str) -> argparse.ArgumentParser:
    """A verb's parser with its help texts."""
    return verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    """SOURCE and --shape."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="an .onnx file, or file.py:function that returns (module, example_inputs)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=DIMS",
        help="fix the shape of an input, such as x=1,3,224,224 (may be repeated)",
    )


def add_sparsity(parser: argparse.ArgumentParser) -> None:
    """--pattern, --sparsity, --scope, --skip, --min-size and --permute."""
    group = parser.add_argument_group("sparsity (magnitude, without training)")
    group.add_argument("--pattern", help="unstructured, RxC such as 4x1, N:M such as 2:4, or fan-in")
    group.add_argument(
        "--sparsity", type=float, metavar="SHARE", help="share of zeros, such as 0.8; N:M has its own"
    )
    group.add_argument(
        "--scope",
        choices=("layer", "global", "erk", "owl"),
        default="layer",
        help="each layer alike, one threshold, more in small layers, or (with data) in those with outliers",
    )
    group.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="layers to leave alone (may be repeated)"
    )
    group.add_argument(
        "--min-size", type=int, default=1024, metavar="N", help="leave smaller weights alone (%(default)s)"
    )
    group.add_argument(
        "--permute", action="store_true", help="first reorder channels so that the pattern keeps more"
    )


def read_share(text: str) -> float:
    """`0.5x`, `0.5` or `50%` -> 0.5, for argparse."""
    number = text.strip().removesuffix("x")
    scale = 0.01 if number.endswith("%") else 1.0
    try:
        found = float(number.removesuffix("%")) * scale
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.5x or 50%, not {text!r}")
    return found


def read_widths(text: str) -> tuple[float, ...]:
    """`1,0.85` -> (1.0, 0.85), for argparse."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < one <= 1 for one in found):
        raise argparse.ArgumentTypeError(f"expected shares of the FLOPs such as 1,0.85, not {text!r}")
    return found


def add_budget(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """What `compress` is to meet, and what it may use."""
    group = parser.add_argument_group("budget")
    much = group.add_mutually_exclusive_group(required=required)
    much.add_argument(
        "--latency", type=read_share, metavar="SHARE", help="of the dense float32 model's time, such as 0.5x"
    )
    much.add_argument(
        "--zeros", type=read_share, metavar="SHARE", help="of all weights that become zero, such as 80%%"
    )
    much.add_argument(
        "--bytes", type=read_share, metavar="SHARE",
        help="of the bytes of the dense float32 artifact's weights, indices included, such as 0.25x",
    )  # fmt: skip
    group.add_argument(
        "--widths", type=read_widths, metavar="A,B,...",
        help="shares of the FLOPs to consider that are left when channels, heads and features go "
        "(1,0.85,0.7 with --calibration, else 1)",
    )  # fmt: skip
    group.add_argument(
        "--bits", type=int, action="append", choices=(32, 8),
        help="of weights and activations, for each layer to choose from (both with --calibration, else 32; "
        "may be repeated)",
    )  # fmt: skip
    group.add_argument(
        "--patterns", action="append", metavar="PATTERN",
        help="for each layer to choose from (unstructured, 2x1 and 4x1, with 8 bits 4x4; may be repeated)",
    )  # fmt: skip
    add_loss(group)
    group.add_argument(
        "--save-plan", type=Path, metavar="FILE", help="write which channels stay as JSON, for `prune --plan`"
    )


def add_loss(group: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """How the outputs of two models are compared."""
    group.add_argument(
        "--loss", choices=("kl", "squared"),
        help="divergence of the outputs' classes, or squared error for embeddings and other numbers "
        "(kl where the graph looks like a classifier or a language model)",
    )  # fmt: skip


def add_hooks(parser: argparse.ArgumentParser) -> None:
    """What watches the passes."""
    group = parser.add_argument_group("watching the passes")
    group.add_argument(
        "--print-after",
        action="append",
        default=[],
        metavar="PASS",
        help="print the graph after a pass, or `all` (may be repeated)",
    )
    group.add_argument(
        "--dump-dir", type=Path, metavar="FOLDER", help="write the graph after every pass there"
    )
    group.add_argument("--verify-each", action="store_true", help="check the graph after every pass")
    group.add_argument(
        "--compare-each", action="store_true", help="compare the numbers before and after every pass"
    )
    group.add_argument("--time-passes", action="store_true", help="print how long every pass took")


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """--data, --task and --seed of what measures outputs."""
    parser.add_argument(
        "--data", action="append", required=True, type=Path, metavar="FILE",
        help=".npz with inputs by name and `target` where the task needs it (may be repeated)",
    )  # fmt: skip
    tasks = ("perplexity", "classification", "agreement", "similarity")
    parser.add_argument("--task", required=True, choices=tasks, help="what is measured")
    parser.add_argument("--seed", type=int, default=0, help="of the evaluation's draws (%(default)s)")


def add_threads(parser: argparse.ArgumentParser) -> None:
    """--threads."""
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of a run (%(default)s)")


def read_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`x=1,3,224,224` -> {"x": (1, 3, 224, 224)}.

    Raises:
        UsageError: a text is not of this form.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, sign, dims = text.rpartition("=")
        words = [word.strip() for word in dims.split(",")] if dims.strip() else []
        if not sign or not name or not all(word.isascii() and word.isdigit() for word in words):
            raise UsageError(f"--shape {text}: expected NAME=DIMS such as x=1,3,224,224")
        if name in shapes:
            raise UsageError(f"--shape gives {name} twice")
        shapes[name] = tuple(map(int, words))
    return shapes


def read_hooks(args: argparse.Namespace) -> list[Hook]:
    """The hooks that the options ask for.

    Raises:
        UsageError: --print-after with a pass that does not exist.
    """
    from sparsecc.passes import CompareNumerics, DumpDir, PrintAfter, TimePasses, VerifyEach, get_pass

    hooks: list[Hook] = []
    if args.verify_each:
        hooks.append(VerifyEach())
    if args.compare_each:
        hooks.append(CompareNumerics())
    if args.dump_dir is not None:
        if args.dump_dir.exists() and not args.dump_dir.is_dir():
            raise UsageError(f"--dump-dir {args.dump_dir} is not a folder")
        hooks.append(DumpDir(args.dump_dir))
    if args.time_passes:
        hooks.append(TimePasses())
    if args.print_after:
        names = () if "all" in args.print_after else tuple(args.print_after)
        for name in names:
            get_pass(name)
        hooks.append(PrintAfter(names))
    return hooks


def read_passes(args: argparse.Namespace) -> str:
    """The spec of --passes, and of the sparsity options behind it.

    Raises:
        UsageError: sparsity options without --pattern, or a spec that is none.
    """
    from sparsecc.passes.permute import Permute
    from sparsecc.passes.pipeline import Pipeline
    from sparsecc.passes.sparsify import Sparsify

    asked = Pipeline.parse(args.passes)
    if args.pattern is None:
        if args.sparsity is not None or args.skip or args.scope != "layer" or args.permute:
            raise UsageError(
                "--sparsity, --skip, --scope and --permute need --pattern, such as --pattern 4x1"
            )
        return str(asked)
    sparsity = args.sparsity
    if sparsity is None:
        sparsity = -1.0 if ":" in args.pattern else 0.8
    skip = tuple(args.skip)
    item = Sparsify(args.pattern, sparsity, args.scope, skip, args.min_size)
    first = (Permute(args.pattern, sparsity, skip, args.min_size),) if args.permute else ()
    return str(Pipeline((*asked.passes, *first, item)))


def check_out(path: Path, *, force: bool) -> None:
    """Refuse to replace a file without being asked to, before any work is done.

    Raises:
        UsageError: `path` exists, or its folder does not.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if path.exists() and not force:
        raise UsageError(f"{path} exists: add --force to replace it, or choose another name")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}")


def add_calibration(group: argparse._ActionsContainer) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add the option for inputs like those that the network will see."""
    group.add_argument(
        "--calibration",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help=".npz with inputs by name, one batch or several on top of each other (may be repeated); for "
        "sparsity also `target` for gradients and `weight`, how much the file counts",
    )
