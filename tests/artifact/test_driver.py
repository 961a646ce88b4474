"""The generated driver: plans that contradict themselves are refused before any C is written."""

from __future__ import annotations

import dataclasses

import pytest
from artifact_plans import example_plan, make_plan

from sparsecc.errors import LoweringError, UsageError
from sparsecc.targets.driver import generate, total_arena_bytes
from sparsecc.targets.plan import SLACK, Ref, Step, TensorSpec


@pytest.mark.parametrize("name", ["", "1a", "a-b", "_a", "ä", "a b", "sparsecc", "SPARSECC_x"])
def test_names_that_are_no_prefix(name: str) -> None:
    with pytest.raises(UsageError, match="cannot prefix C symbols"):
        generate(dataclasses.replace(example_plan(), name=name))


@pytest.mark.parametrize("name", ["int", "class", "m", "MobileNet_v1"])
def test_names_that_are(name: str) -> None:
    sources = generate(dataclasses.replace(example_plan(), name=name))
    assert f"{name}_create" in sources.exports
    assert f"#define {name.upper()}_ARENA_BYTES" in sources.header


GOOD = Step("good", "t_scale", (Ref("input", 0), Ref("arena", 0, 64), Ref("output", 0)), (3,), 10, "scale")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"symbol": "missing"}, "calls a kernel that the plan does not have"),
        ({"scalars": ()}, "passes (3, 0) (pointers, scalars) where the kernel takes (3, 1)"),
        ({"pointers": GOOD.pointers[:2]}, "passes (2, 1)"),
        ({"extent": -1}, "negative extent"),
        ({"extent": 2**31}, "beyond 32 bits"),
        ({"scalars": (2**31,)}, "beyond 32 bits"),
        (
            {"pointers": (*GOOD.pointers[:2], Ref("output", 1))},
            "points to byte 0 of output 1, which does not",
        ),
        ({"pointers": (*GOOD.pointers[:2], Ref("arena", 1))}, "arena 1, which does not exist"),
        (
            {"pointers": (*GOOD.pointers[:2], Ref("arena", 0, 129))},
            "byte 129 of arena 0, which has 128 bytes",
        ),
        ({"pointers": (*GOOD.pointers[:2], Ref("weights", 0, 1))}, "which has 0 bytes"),
        ({"pointers": (*GOOD.pointers[:2], Ref("input", 0, -4))}, "points to byte -4 of input 0"),
    ],
)
def test_steps_that_contradict_the_plan(change: dict[str, object], sentence: str) -> None:
    tensor = TensorSpec("x", "float32", (10,))
    plan = make_plan((GOOD,), (tensor,), (tensor,), arena_bytes=128)
    generate(plan)
    bad = dataclasses.replace(GOOD, **change)  # pyright: ignore[reportArgumentType]
    with pytest.raises(LoweringError) as caught:
        generate(dataclasses.replace(plan, steps=(bad,)))
    assert sentence in str(caught.value)
    assert "'good'" in str(caught.value)


def test_kernels_that_stand_in_for_others() -> None:
    tensor = TensorSpec("x", "float32", (10,))
    plan = make_plan((GOOD,), (tensor,), (tensor,), arena_bytes=128)
    plan.symbols["t_other"] = plan.symbols["t_scale"]
    both = dataclasses.replace(plan, alternatives={"t_scale": "t_other"}, optional=("avx512f",))
    driver = generate(both).driver
    assert "return (f->optional ? t_scale : t_other)(I(0, 0), A(64), O(0, 0), 3, begin, end);" in driver
    assert ".optional_bit_count = 1," in driver
    for other in ("missing", "t_short"):
        plan.symbols["t_short"] = (1, 0)
        with pytest.raises(LoweringError, match=f"kernel '{other}' cannot stand in for 't_scale'"):
            generate(dataclasses.replace(both, alternatives={"t_scale": other}))


@pytest.mark.parametrize("symbol", ["model_run", "sparsecc_run", "a-b", ""])
def test_kernel_names_that_the_driver_uses(symbol: str) -> None:
    plan = example_plan()
    plan.symbols[symbol] = (1, 0)
    with pytest.raises(LoweringError, match="is not a C name or is one that the driver uses"):
        generate(plan)


def test_arena_has_slack_on_both_sides() -> None:
    plan = example_plan()
    assert total_arena_bytes(plan) == plan.arena_bytes + 2 * SLACK
    assert total_arena_bytes(dataclasses.replace(plan, arena_bytes=1)) == 64 + 2 * SLACK
    assert total_arena_bytes(dataclasses.replace(plan, arena_bytes=0)) == 2 * SLACK


def test_least_integer_and_odd_names_compile() -> None:
    step = dataclasses.replace(GOOD, scalars=(-(2**31),), label='\n"\\*/ ??=\x00é')
    tensor = TensorSpec('x"\n*/', "float32", (10,))
    sources = generate(make_plan((step,), (tensor,), (tensor,), arena_bytes=128))
    assert "(-2147483647 - 1), begin, end)" in sources.driver
    assert '"\\012\\042\\134*/ \\077\\077=\\000\\303\\251"' in sources.driver
