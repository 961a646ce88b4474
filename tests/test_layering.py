"""Who may import whom, and that nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = (
    "arrays",
    "timing",
    "sparsifier",
    "knee",
    "evaluation",
    "quantizer",
    "peers",
    "peer_process",
    "side_by_side",
    "measurement",
    "rpc",
    "compiler",
    "gauge",
    "latency",
    "training",
    "distiller",
    "group_penalty",
    "sweeper",
    "tuner",
    "pruner",
    "option_search",
    "compressor",
    "",
)

# A unit may import units of lower ranks, and itself.
RANKS = {
    "errors": 0,
    "host": 0,
    "oracle": 0,
    "ir": 1,
    "cost": 1,
    "axes": 2,
    "capture": 2,
    "passes": 3,
    "torch": 2,
    "targets": 4,
    "tuning": 5,
    "artifact": 5,
    "report": 6,
    **dict.fromkeys(PUBLIC, 7),
    "cli": 8,
    "__main__": 9,
}
# Public modules among themselves, in order.
ORDER = {name: index for index, name in enumerate(PUBLIC)}

# Packages that nothing may import before they are needed, and the only units that may import them.
HEAVY = ("torch", "tvm", "onnx", "onnx_ir", "onnxruntime", "onnxscript")
USERS = {
    "tvm": {"targets"},
    "torch": {"capture", "passes", "pruner", "torch", "training", "distiller", "group_penalty"},
    "onnxruntime": {"ir", "oracle", "peers"},
    "onnx": {"ir", "oracle", "capture", "passes", "targets", "pruner"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted names and files of all that ships."""
    for folder, prefix in ((ROOT / "sparsecc", "sparsecc"), (ROOT / "passes", "sparsecc.passes")):
        yield from _modules(folder, prefix)
    yield from _modules(ROOT / "targets", "sparsecc.targets")


def _modules(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            yield from _modules(path, f"{prefix}.{path.name}")
        elif path.suffix == ".py":
            yield (prefix if path.stem == "__init__" else f"{prefix}.{path.stem}"), path


def imports(path: Path) -> Iterator[str]:
    """All modules that a file names in imports, those for type checkers and inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(name: str) -> str:
    """`sparsecc.targets.lower.conv` -> `targets`; the package itself is the empty text."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


ALL = dict(modules())


def test_every_unit_has_a_rank() -> None:
    assert {unit(name) for name in ALL} <= RANKS.keys()


@pytest.mark.parametrize("name", [name for name in ALL if name != "sparsecc"])
def test_imports_go_down(name: str) -> None:
    own = unit(name)
    for imported in imports(ALL[name]):
        if not imported.startswith("sparsecc.") or unit(imported) == own:
            continue
        other = unit(imported)
        if other not in RANKS:  # `from sparsecc import targets` names the package first
            continue
        allowed = RANKS[other] < RANKS[own] or (own in ORDER and other in ORDER and ORDER[other] < ORDER[own])
        assert allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in ALL if unit(name) == "oracle"])
def test_the_oracle_shares_no_code_with_what_it_judges(name: str) -> None:
    for imported in imports(ALL[name]):
        package = imported.partition(".")[0]
        alone = package in {"numpy", "onnx", "onnxruntime", *sys.stdlib_module_names}
        assert alone or imported.startswith("sparsecc.oracle"), f"{name} imports {imported}"


@pytest.mark.parametrize("name", list(ALL))
def test_heavy_packages_stay_where_they_are_used(name: str) -> None:
    for imported in imports(ALL[name]):
        package = imported.partition(".")[0]
        if package in USERS:
            assert unit(name) in USERS[package], f"{name} imports {imported}"


@pytest.mark.parametrize(
    "statement",
    [
        "import sparsecc",
        "from sparsecc.cli.main import make_parser; make_parser().format_help()",
        "import sparsecc; sparsecc.load",
        "from sparsecc.cli import run_verb, inspect_verb; import sparsecc.artifact, sparsecc.arrays",
    ],
)
def test_nothing_heavy_is_imported_early(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_start_imports_little() -> None:
    def modules(statement: str) -> int:
        code = f"{statement}\nimport sys\nprint(len(sys.modules))"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return int(done.stdout)

    bare = modules("pass")
    assert modules("import sparsecc") - bare < 40
    assert modules("from sparsecc.cli.main import make_parser; make_parser().format_help()") - bare < 120


def test_public_names() -> None:
    import sparsecc

    importlib.import_module("sparsecc.capture.normalize")  # a subpackage must not replace the function
    for name in sparsecc.__all__:
        assert getattr(sparsecc, name) is not None
    assert callable(sparsecc.capture)
    assert set(sparsecc.__all__) <= set(dir(sparsecc))
    with pytest.raises(AttributeError, match="prune_everything"):
        _ = sparsecc.prune_everything  # pyright: ignore[reportAttributeAccessIssue]
