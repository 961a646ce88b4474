"""Writing: what comes out, and that nothing is left or lost when it fails, is interrupted or may not be."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from artifact_plans import check, example_inputs, example_plan

from sparsecc.artifact import load, read_artifact
from sparsecc.artifact.pack import write_artifact
from sparsecc.errors import LoweringError, UsageError
from sparsecc.targets import linking, toolchain
from sparsecc.targets.plan import SLACK, Step

EXPORTS = {
    f"model_{name}"
    for name in ("create", "run", "profile", "destroy", "error_string", "step_label", "input", "output")
}


def output_of(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def exported(library: Path) -> set[str]:
    return {line.split()[-1] for line in output_of("nm", "-D", "--defined-only", library).splitlines()}


def without_packages(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_manifest(artifact: Path) -> None:
    manifest, folder = read_artifact(artifact)
    assert folder == artifact
    plan = example_plan()
    assert manifest.format_version == 1
    assert manifest.sparsecc_version
    assert manifest.target == "cpu"
    assert manifest.features == plan.features
    assert manifest.arena_bytes == plan.arena_bytes + 2 * SLACK
    assert manifest.weights_bytes == plan.weights.nbytes == (artifact / "weights.bin").stat().st_size
    assert not manifest.weights_embedded
    assert manifest.report == plan.report
    assert [step.label for step in manifest.steps] == [step.label for step in plan.steps]


def test_shows_nothing_but_its_functions_and_links_nothing_but_libc(artifact: Path) -> None:
    assert exported(artifact / "libmodel.so") == EXPORTS
    needed = output_of("readelf", "-d", artifact / "libmodel.so")
    libraries = {line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line}
    assert libraries <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    assert "Library soname: [libmodel.so]" in needed
    assert "GNU_STACK" in output_of("readelf", "-lW", artifact / "libmodel.so")
    stack = next(
        x for x in output_of("readelf", "-lW", artifact / "libmodel.so").splitlines() if "GNU_STACK" in x
    )
    assert "RWE" not in stack
    members = output_of("nm", "-g", "--defined-only", artifact / "libmodel.a").splitlines()
    assert {line.split()[-1] for line in members if " T " in line or " D " in line} == EXPORTS


def test_is_small(artifact: Path) -> None:
    assert (artifact / "libmodel.so").stat().st_size < 32_000


def test_embedded_weights(tmp_path: Path) -> None:
    path = write_artifact(example_plan(), tmp_path / "a.scc", embed=True)
    assert not (path / "weights.bin").exists()
    assert "#define MODEL_WEIGHTS_EMBEDDED 1" in (path / "model.h").read_text()
    assert exported(path / "libmodel.so") == EXPORTS
    with load(path, threads=2) as session:
        check(example_inputs(), session.run(example_inputs()))


def test_equal_plans_make_equal_artifacts(artifact: Path, archive: Path, tmp_path: Path) -> None:
    again = write_artifact(example_plan(), tmp_path / "again.scc")
    for file in artifact.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    assert write_artifact(example_plan(), tmp_path / "a", archive=True).read_bytes() == archive.read_bytes()


def test_extra_files(tmp_path: Path) -> None:
    path = write_artifact(example_plan(), tmp_path / "a.scc", extra_files={"report.html": b"<p>"})
    assert (path / "report.html").read_bytes() == b"<p>"
    assert "report.html" in read_artifact(path)[0].files
    for name in ("manifest.json", "libmodel.so", "../x", "a/b", ".x", ""):
        with pytest.raises(UsageError, match="cannot be called"):
            write_artifact(example_plan(), tmp_path / "b.scc", extra_files={name: b""})


def test_makes_parents_and_takes_an_empty_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.scc"
    assert write_artifact(example_plan(), target) == target
    (tmp_path / "empty").mkdir()
    load(write_artifact(example_plan(), tmp_path / "empty")).close()


@pytest.mark.parametrize("archive", [False, True])
def test_overwriting(tmp_path: Path, archive: bool) -> None:
    target = write_artifact(example_plan(30), tmp_path / "a.scc", archive=not archive)
    with pytest.raises(UsageError, match="exists: allow to overwrite it"):
        write_artifact(example_plan(), target, archive=archive)
    with load(target) as session:
        check(example_inputs(30), session.run(example_inputs(30)))
    write_artifact(example_plan(40), target, archive=archive, overwrite=True)
    assert target.is_dir() != archive
    with load(target) as session:
        check(example_inputs(40), session.run(example_inputs(40)))
    assert list(tmp_path.glob(".*")) == []


def _file(path: Path) -> None:
    path.write_text("mine")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def _artifact_with_more(path: Path) -> None:
    write_artifact(example_plan(), path)
    (path / "mine").write_text("mine")


def _link(path: Path) -> None:
    (path.parent / "real").mkdir()
    path.symlink_to(path.parent / "real")


@pytest.mark.parametrize("make", [_file, _folder, _artifact_with_more, _link])
@pytest.mark.parametrize("archive", [False, True])
def test_what_is_not_an_artifact_stays(tmp_path: Path, make: Callable[[Path], None], archive: bool) -> None:
    target = tmp_path / "a.scc"
    make(target)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="is not an artifact, so it stays"):
        write_artifact(example_plan(), target, overwrite=True, archive=archive)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize(
    ("module", "function"), [(linking, "build_libraries"), (toolchain, "find_toolchain")]
)
@pytest.mark.parametrize("there", [False, True])
def test_interrupted_write_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    module: ModuleType,
    function: str,
    there: bool,
) -> None:
    target = tmp_path / "a.scc"
    if there:
        write_artifact(example_plan(), target)

    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, function, interrupted)
    with pytest.raises(error):
        write_artifact(example_plan(30), target, overwrite=True)
    assert list(tmp_path.iterdir()) == ([target] if there else [])
    if there:
        with load(target) as session:
            check(example_inputs(), session.run(example_inputs()))


@pytest.mark.parametrize("archive", [False, True])
def test_interrupted_renaming_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool
) -> None:
    target = write_artifact(example_plan(), tmp_path / "a.scc", archive=archive)
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        if self.name in ("files", "archive"):
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(example_plan(30), target, archive=archive, overwrite=True)
    assert list(tmp_path.iterdir()) == [target]
    with load(target) as session:
        check(example_inputs(), session.run(example_inputs()))


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoweringError, match="cannot write the artifact"):
        write_artifact(example_plan(), tmp_path / "file" / "a.scc")


# --- compilers ------------------------------------------------------------------------------------------


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = example_plan()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    without_packages(monkeypatch, "ziglang")
    with pytest.raises(LoweringError) as caught:
        write_artifact(plan, tmp_path / "a.scc")
    assert "install gcc, or run `pip install sparsecc[zig]`" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LoweringError, match="the ziglang package is not installed"):
        write_artifact(plan, tmp_path / "a.scc", compiler="zig")


def test_compiler_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoweringError, match="the compiler 'nocc -m64' was not found"):
        write_artifact(example_plan(), tmp_path / "a.scc", compiler="nocc -m64")
    monkeypatch.setenv("CC", "nocc")
    with pytest.raises(LoweringError, match=r"\$CC 'nocc' was not found"):
        write_artifact(example_plan(), tmp_path / "a.scc")


def test_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "fakecc"
    fake.write_text("#!/bin/sh\necho broken today >&2\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(LoweringError, match=r"failed with exit code 3:\nbroken today"):
        write_artifact(example_plan(), tmp_path / "a.scc", compiler=str(fake))
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(toolchain, "_TIMEOUT", 0.2)
    with pytest.raises(LoweringError, match="did not end within"):
        write_artifact(example_plan(), tmp_path / "a.scc", compiler=str(fake))
    assert list(tmp_path.iterdir()) == [fake]


def test_kernel_that_needs_another_library(tmp_path: Path) -> None:
    plan = example_plan()
    source = tmp_path / "more.c"
    source.write_text("int missing(void); int more(int begin, int end) { return missing() + begin + end; }\n")
    output_of("cc", "-fPIC", "-c", source, "-o", tmp_path / "more.o")
    plan.objects["more"] = (tmp_path / "more.o").read_bytes()
    plan.symbols["more"] = (0, 0)
    plan.steps += (Step("more", "more", (), (), 1, "more"),)
    with pytest.raises(LoweringError, match="undefined reference to `missing'"):
        write_artifact(plan, tmp_path / "a.scc")
    plan.objects["more"] = b"no object file"
    with pytest.raises(LoweringError, match="failed with exit code"):
        write_artifact(plan, tmp_path / "a.scc")


def test_without_objcopy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_objcopy", lambda _: ())
    path = write_artifact(example_plan(), tmp_path / "a.scc")
    members = output_of("ar", "t", path / "libmodel.a").split()
    assert members == ["driver.o", "kernel0.o"]
    with load(path) as session:
        check(example_inputs(), session.run(example_inputs()))


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
@pytest.mark.parametrize("embed", [False, True])
def test_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embed: bool) -> None:
    plan = example_plan()
    tools = tmp_path / "empty"  # a machine without a C compiler or binutils
    monkeypatch.setenv("PATH", str(tools))
    path = write_artifact(plan, tmp_path / "a.scc", embed=embed)
    monkeypatch.undo()
    assert exported(path / "libmodel.so") == EXPORTS
    for threads in (1, 3):
        with load(path, threads=threads) as session:
            check(example_inputs(), session.run(example_inputs()))


def test_interrupt_of_the_process(tmp_path: Path) -> None:
    """Ctrl-C while the compiler runs: the process ends, and neither result nor temporary files stay."""
    slow = tmp_path / "slowcc"
    slow.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexec sleep 60\n")
    slow.chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from artifact_plans import example_plan
from sparsecc.artifact.pack import write_artifact
write_artifact(example_plan(), {str(tmp_path / "out" / "a.scc")!r}, compiler={str(slow)!r})
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
        process.send_signal(2)
        assert process.wait(timeout=30) != 0
    finally:
        process.kill()
    assert list((tmp_path / "out").iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []
