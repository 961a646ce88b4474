"""Inner loops for ARM keep near the limit of multiply-adds, as llvm-mca models a Neoverse N1."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.pipeline import Loop, loops_of, simulate
from sparsecc.targets.build import build_objects
from sparsecc.targets.kernels.epilogue import Epilogue
from sparsecc.targets.kernels.spmm import SpmmForm, spmm_kernel
from sparsecc.targets.registry import MACHINES

pytestmark = pytest.mark.skipif(shutil.which("llvm-mca-19") is None, reason="llvm-mca-19 is not installed")


@pytest.fixture(params=[(4, 5, 0), (8, 2, 0), (2, 8, 16), (1, 8, 16)], ids=str)
def kernel(request: pytest.FixtureRequest) -> tuple[int, int, Loop]:
    """Rows and width of a tile, and the loop that multiplies."""
    rows, width, unit = request.param
    machine = MACHINES["arm64-linux"]
    form = SpmmForm(rows, (width,), machine.lanes, False, False, Epilogue(), unit, machine.by_lane)
    made = {"kernel": lambda: spmm_kernel(form, "kernel")}
    (data,) = build_objects(made, machine.tvm_target(), source_version=None).values()
    return rows, width, max(loops_of(data), key=lambda loop: loop.density)


def test_weights_and_sums_stay_in_registers(kernel: tuple[int, int, Loop]) -> None:
    rows, width, loop = kernel
    columns = len(loop.multiplies) // (rows * width)
    assert len(loop.multiplies) == columns * rows * width
    # of each column its inputs, two at a time where they are neighbours; a load brings four weights
    assert len(loop.loads) <= columns * (width + 1) + 2
    assert not [line for line in loop.body if line.name.startswith("st")]


def test_share_of_the_limit(kernel: tuple[int, int, Loop]) -> None:
    rows, _, loop = kernel
    cycles = simulate([line.text for line in loop.body], "neoverse-n1")["Total Cycles"] / 200
    limit = simulate(loop.multiplies, "neoverse-n1")["Block RThroughput"]
    assert limit / cycles >= (0.6 if rows == 1 else 0.9)
