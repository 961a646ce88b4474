"""Pipelines: specs round-trip, bad specs get a sentence, hooks watch."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pass_graphs import graph

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.edit import replace_constant
from sparsecc.passes import (
    COMPILE_PIPELINE,
    CompareNumerics,
    Context,
    DumpDir,
    Pass,
    PassResult,
    Pipeline,
    PrintAfter,
    TimePasses,
    VerifyEach,
    get_pass,
    pass_names,
)
from sparsecc.passes.fold_constants import FoldConstants
from sparsecc.passes.sparsify import Sparsify

WORDS = st.text(min_size=1, max_size=12)
PASSES = st.one_of(
    st.sampled_from([get_pass(name)() for name in pass_names() if name != "sparsify"]),
    st.builds(FoldConstants, max_growth=st.floats(0, 1e6)),
    st.builds(
        Sparsify,
        pattern=st.sampled_from(["unstructured", "4x1", "fan-in"]),
        sparsity=st.floats(0, 0.999),
        skip=st.lists(WORDS, max_size=4).map(tuple),
        min_size=st.integers(0, 10**6),
    ),
)


@given(st.lists(PASSES, max_size=5).map(tuple))
def test_specs_round_trip(passes: tuple[Pass, ...]) -> None:
    pipeline = Pipeline(passes)
    assert Pipeline.parse(str(pipeline)) == pipeline


@given(st.text(alphabet='abc-{}=,"\\ 019.x:', max_size=30))
def test_any_text_parses_or_gets_a_sentence(text: str) -> None:
    try:
        Pipeline.parse(text)
    except UsageError as error:
        assert len(str(error).splitlines()) <= 1 or "\n" in text


def test_the_compile_pipeline_prints_as_itself() -> None:
    assert str(Pipeline.parse(COMPILE_PIPELINE)) == COMPILE_PIPELINE


def test_spaces_and_quotes() -> None:
    pipeline = Pipeline.parse('sparsify{ pattern = 4x1 sparsity=0.5 skip="a b",c.* },drop-dead')
    first = pipeline.passes[0]
    assert isinstance(first, Sparsify) and first.skip == ("a b", "c.*")
    assert str(pipeline) == 'sparsify{pattern=4x1 sparsity=0.5 skip="a b",c.*},drop-dead'


BAD = [
    ("fold-constant", "there is no pass 'fold-constant'; passes are drop-dead, fold-batch-norm"),
    (
        "sparsify{size=3 sparsity=0.5}",
        "no option size; its options are pattern, sparsity, scope, skip, min-size",
    ),
    ("drop-dead{x=1}", "it has no options"),
    ("sparsify{sparsity=much}", "takes a number, not 'much'"),
    ("sparsify{sparsity=0.5 min-size=1.5}", "takes an integer"),
    ("sparsify{sparsity=0.5 sparsity=0.6}", "given twice"),
    ("sparsify{sparsity=0.5", "the end at position 21"),
    ("sparsify{sparsity=}", "a value was expected"),
    ("drop-dead fold-pad", "a comma was expected"),
    ("drop-dead,", "a pass name was expected"),
    (",drop-dead", "a pass name was expected"),
]


@pytest.mark.parametrize(("spec", "message"), BAD)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        Pipeline.parse(spec)


def test_every_pass_has_a_summary_and_documented_options() -> None:
    for name in pass_names():
        cls = get_pass(name)
        assert cls.name == name
        assert cls.summary and "\n" not in cls.summary
        for field in fields(cls):
            assert f"{field.name}:" in (cls.__doc__ or ""), f"{name}: {field.name}"


@dataclass(frozen=True)
class Wreck(Pass):
    """Break a model in one of three ways.

    Options:
        how: rename, nan or scale.
    """

    how: str = "scale"

    name: ClassVar[str] = "wreck"
    summary: ClassVar[str] = "break a model"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Break it."""
        value = model.graph.initializers["w"]
        assert value.const_value is not None
        if self.how == "rename":
            model.graph[0].outputs[0].name = "x"
        elif self.how == "nan":
            replace_constant(value, np.full((4, 4), np.nan, np.float32))
        else:
            replace_constant(value, value.const_value.numpy() * np.float32(1.01))
        return PassResult(True)


def small() -> ir.Model:
    """x W, then Relu."""
    return graph("(float[2,4] x) => (float y) { a = MatMul(x, w) y = Relu(a) }", {"w": (4, 4)})


@pytest.mark.parametrize(
    ("how", "message"), [("rename", "after wreck: the name x"), ("nan", "after wreck: .*NaN")]
)
def test_verify_each(how: str, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        Pipeline((Wreck(how),)).run(small(), hooks=[VerifyEach()])


def test_compare_numerics() -> None:
    with pytest.raises(VerificationError, match="after wreck: output y differs by"):
        Pipeline((Wreck(),)).run(small(), hooks=[CompareNumerics()])
    Pipeline((Wreck(),)).run(small(), hooks=[CompareNumerics(tolerance=0.1)])


def test_compare_numerics_lets_sparsify_set_a_new_reference() -> None:
    pipeline = Pipeline.parse("sparsify{sparsity=0.5 min-size=0},fuse-epilogues")
    pipeline.run(small(), hooks=[CompareNumerics()])
    with pytest.raises(VerificationError):
        Pipeline((*pipeline.passes, Wreck())).run(small(), hooks=[CompareNumerics()])


def test_compare_numerics_over_new_shapes() -> None:
    model = graph("(float[N,4] x) => (float y) { y = Relu(x) }")
    Pipeline.parse("specialize-shapes{shapes=x:3x4},drop-dead").run(model, hooks=[CompareNumerics()])


def test_time_print_and_dump(tmp_path: Path) -> None:
    times, text = io.StringIO(), io.StringIO()
    hooks = [TimePasses(times), PrintAfter(("fuse-epilogues",), text), DumpDir(tmp_path / "dumps")]
    ctx = Pipeline.parse("drop-dead,fuse-epilogues").run(small(), hooks=hooks)
    assert [line.split()[-1] for line in times.getvalue().splitlines()] == ["drop-dead", "fuse-epilogues"]
    assert text.getvalue().startswith("// after fuse-epilogues\nmodel test")
    names = sorted(path.name for path in (tmp_path / "dumps").iterdir())
    assert names == ["00-input.txt", "01-drop-dead.txt", "02-fuse-epilogues.txt"]
    assert [report.spec for report in ctx.reports] == ["drop-dead", "fuse-epilogues"]
