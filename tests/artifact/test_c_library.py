"""The library from C: the example program prints what the session returns, under every checker there is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from artifact_plans import counting_plan, example_inputs, example_plan

from sparsecc.artifact import load
from sparsecc.artifact.pack import write_artifact
from sparsecc.targets.driver import generate, include_folders
from sparsecc.targets.plan import Plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "c" / "run_model.c"
KERNELS = Path(__file__).with_name("kernels.c")
STRICT = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes")


def run(*command: str | Path, ok: bool = True) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout if ok else done.stderr


def write_inputs(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for name, array in example_inputs().items():
        paths.append(folder / f"{name}.bin")
        array.tofile(paths[-1])
    return paths


def parse(text: str) -> dict[str, npt.NDArray[np.float32]]:
    rows = (line.split() for line in text.splitlines())
    return {row[0]: np.array(row[1:], np.float32) for row in rows}


def assert_same_as_session(text: str, artifact: Path) -> None:
    printed = parse(text)
    with load(artifact) as session:
        for name, array in session.run(example_inputs()).items():
            np.testing.assert_array_equal(printed[name], array.ravel())


def compile_sources(plan: Plan, folder: Path, *flags: str) -> Path:
    """The example program from sources alone, for checkers that need to see every access."""
    sources = generate(plan)
    (folder / "model.h").write_text(sources.header)
    (folder / "driver.c").write_text(sources.driver)
    (folder / "weights.bin").write_bytes(b"".join(plan.weights.parts()))
    files = (folder / "driver.c", KERNELS, EXAMPLE)
    includes = (f"-I{folder}", *(f"-I{path}" for path in include_folders(plan)))
    run("cc", *STRICT, *flags, *includes, *files, "-lm", "-lpthread", "-o", folder / "program")
    return folder / "program"


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("library", ["shared", "static"])
def test_prints_the_same_numbers(tmp_path: Path, library: str, embed: bool, threads: int) -> None:
    artifact = write_artifact(example_plan(), tmp_path / "a.scc", embed=embed)
    link = (
        (f"-L{artifact}", f"-Wl,-rpath,{artifact}", "-lmodel")
        if library == "shared"
        else (str(artifact / "libmodel.a"), "-lm", "-lpthread")
    )
    program = tmp_path / "program"
    run("cc", *STRICT, f"-I{artifact}", EXAMPLE, *link, "-o", program)
    weights = "-" if embed else artifact / "weights.bin"
    assert_same_as_session(run(program, weights, str(threads), *write_inputs(tmp_path)), artifact)
    linked = run("ldd", program)
    assert ("libmodel.so" in linked) == (library == "shared")


def test_wrong_weights(tmp_path: Path, artifact: Path) -> None:
    program = tmp_path / "program"
    run("cc", *STRICT, f"-I{artifact}", EXAMPLE, artifact / "libmodel.a", "-lm", "-lpthread", "-o", program)
    inputs = write_inputs(tmp_path)
    (tmp_path / "short").write_bytes(bytes(10))
    for weights, sentence in (
        (tmp_path / "nothing", "the weights file cannot be opened"),
        (tmp_path, "the weights file cannot be opened"),
        (tmp_path / "short", "the weights do not have the size"),
    ):
        assert sentence in run(program, weights, "1", *inputs, ok=False)
    assert "option is out of range" in run(program, artifact / "weights.bin", "257", *inputs, ok=False)
    assert "expected a file of 8000 bytes" in run(
        program, artifact / "weights.bin", "1", tmp_path / "short", inputs[1], ok=False
    )


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize("threads", [1, 3])
def test_valgrind(tmp_path: Path, artifact: Path, threads: int) -> None:
    program = tmp_path / "program"
    run(
        "cc",
        "-g",
        *STRICT,
        f"-I{artifact}",
        EXAMPLE,
        artifact / "libmodel.a",
        "-lm",
        "-lpthread",
        "-o",
        program,
    )
    checker = ("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--track-fds=no")
    arguments = (artifact / "weights.bin", str(threads), *write_inputs(tmp_path))
    assert_same_as_session(run(*checker, program, *arguments), artifact)


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_sanitizers(tmp_path: Path, artifact: Path, sanitizer: str, threads: int) -> None:
    program = compile_sources(
        example_plan(), tmp_path, "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"
    )
    printed = run(program, tmp_path / "weights.bin", str(threads), *write_inputs(tmp_path))
    assert_same_as_session(printed, artifact)


@pytest.mark.parametrize("threads", [2, 4])
def test_thread_pool_has_no_races(tmp_path: Path, threads: int) -> None:
    program = compile_sources(counting_plan(100, 400, sleep=True), tmp_path, "-g", "-fsanitize=thread")
    run(program, tmp_path / "weights.bin", str(threads))


API_CHECKS = r"""
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

static _Alignas(64) unsigned char arena[MODEL_ARENA_BYTES + 64];
static _Alignas(64) unsigned char weights[MODEL_WEIGHTS_BYTES + 64];
static float x[MODEL_INPUT_0_BYTES / 4 + 1], y[MODEL_INPUT_1_BYTES / 4];
static float sums[MODEL_OUTPUT_0_BYTES / 4], scaled[MODEL_OUTPUT_1_BYTES / 4];

int main(void) {
    const int64_t shape[MODEL_INPUT_0_RANK] = MODEL_INPUT_0_SHAPE;
    assert(shape[0] == 40 && shape[1] == 50 && strcmp(MODEL_OUTPUT_0_NAME, "sums") == 0);
    assert(strcmp(model_input(1)->name, "y") == 0 && model_input(1)->shape[1] == 50);
    assert(strcmp(model_output(0)->type, "float32") == 0 && model_output(0)->bytes == 160);
    assert(model_input(-1) == NULL && model_input(2) == NULL && model_output(2) == NULL);
    assert(strcmp(model_step_label(1), "add \"2\" */ ?\?/") == 0);
    assert(model_step_label(-1) == NULL && model_step_label(MODEL_STEPS) == NULL);
    assert(strcmp(model_error_string(12345), "unknown status") == 0);

    model_handle *h = (model_handle *)&h;
    model_options o = {0};
    assert(model_create(&o, NULL) == MODEL_ERROR_ARGUMENT);
    assert(model_create(NULL, &h) == MODEL_ERROR_WEIGHTS_FILE && h == NULL);
    assert(model_create(&o, &h) == MODEL_ERROR_WEIGHTS_FILE);
    o.weights = weights;
    o.weights_bytes = MODEL_WEIGHTS_BYTES - 1;
    assert(model_create(&o, &h) == MODEL_ERROR_WEIGHTS_SIZE);
    o.weights = weights + 4;
    o.weights_bytes = MODEL_WEIGHTS_BYTES;
    assert(model_create(&o, &h) == MODEL_ERROR_ALIGNMENT);
    o.weights = weights;
    o.arena = arena;
    o.arena_bytes = MODEL_ARENA_BYTES - 1;
    assert(model_create(&o, &h) == MODEL_ERROR_ARENA_SIZE);
    o.arena = arena + 32;
    o.arena_bytes = MODEL_ARENA_BYTES;
    assert(model_create(&o, &h) == MODEL_ERROR_ALIGNMENT);
    o.arena = arena;
    o.threads = -1;
    assert(model_create(&o, &h) == MODEL_ERROR_ARGUMENT && h == NULL);
    o.threads = 2;
    assert(model_create(&o, &h) == MODEL_OK && h != NULL);

    const void *in[] = {x, y};
    void *out[] = {sums, scaled};
    uint64_t ns[MODEL_STEPS];
    assert(model_run(h, in, out) == MODEL_OK);
    assert(model_profile(h, in, out, ns) == MODEL_OK);
    assert(model_profile(h, in, out, NULL) == MODEL_ERROR_ARGUMENT);
    assert(model_run(NULL, in, out) == MODEL_ERROR_ARGUMENT);
    assert(model_run(h, NULL, out) == MODEL_ERROR_ARGUMENT);
    assert(model_run(h, in, NULL) == MODEL_ERROR_ARGUMENT);
    in[1] = NULL;
    assert(model_run(h, in, out) == MODEL_ERROR_ARGUMENT);
    in[1] = (const char *)x + 2;
    assert(model_run(h, in, out) == MODEL_ERROR_ALIGNMENT);
    in[1] = x + 1;
    assert(model_run(h, in, out) == MODEL_OK);
    model_destroy(h);
    model_destroy(NULL);
    return 0;
}
"""


def test_every_status_code(tmp_path: Path) -> None:
    plan = example_plan()
    sources = generate(plan)
    (tmp_path / "model.h").write_text(sources.header)
    (tmp_path / "driver.c").write_text(sources.driver)
    (tmp_path / "main.c").write_text(API_CHECKS)
    files = (tmp_path / "driver.c", tmp_path / "main.c", KERNELS)
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    includes = (f"-I{tmp_path}", *(f"-I{path}" for path in include_folders(plan)))
    run("cc", *STRICT, *flags, *includes, *files, "-lm", "-lpthread", "-o", tmp_path / "program")
    run(tmp_path / "program")


def test_missing_cpu_features(tmp_path: Path) -> None:
    """The library itself asks the processor, for programs that do not read the manifest."""
    plan = example_plan(features=("fma", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"))
    has = set(Path("/proc/cpuinfo").read_text().split())
    if set(plan.features) <= has:
        pytest.skip("this processor has them all")
    program = compile_sources(plan, tmp_path)
    error = run(program, tmp_path / "weights.bin", "1", *write_inputs(tmp_path), ok=False)
    assert "this processor lacks an instruction set" in error


def test_cpu_features_of_this_machine(tmp_path: Path) -> None:
    """Every feature that /proc/cpuinfo names and the driver knows is found by the driver too."""
    from sparsecc.artifact import host_features
    from sparsecc.targets.features import CPUID

    names = tuple(sorted(set(CPUID) & host_features()))
    program = compile_sources(example_plan(features=names), tmp_path)
    run(program, tmp_path / "weights.bin", "1", *write_inputs(tmp_path))


def test_header_in_cpp(tmp_path: Path, artifact: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    source = tmp_path / "main.cpp"
    source.write_text(
        '#include "model.h"\n#include <cstdio>\n'
        "int main() { std::puts(model_error_string(MODEL_ERROR_MEMORY)); }\n"
    )
    program = tmp_path / "program"
    flags = ("-Wall", "-Wextra", "-Werror", "-pedantic")
    run("c++", *flags, f"-I{artifact}", source, artifact / "libmodel.a", "-lpthread", "-o", program)
    assert run(program) == "out of memory\n"


def test_two_models_in_one_program(tmp_path: Path) -> None:
    """Kernels of equal names stay apart in static libraries, too."""
    main = ""
    libraries: list[Path] = []
    for name in ("first", "second"):
        folder = write_artifact(example_plan(name=name), tmp_path / name, embed=True)
        shutil.copy(folder / "model.h", tmp_path / f"{name}.h")
        libraries.append(folder / "libmodel.a")
        main += f'#include "{name}.h"\n'
    main += """
int main(void) {
    first_handle *a = 0;
    second_handle *b = 0;
    return first_create(0, &a) || second_create(0, &b) || (first_destroy(a), second_destroy(b), 0);
}
"""
    (tmp_path / "main.c").write_text(main)
    program = tmp_path / "program"
    run("cc", *STRICT, f"-I{tmp_path}", tmp_path / "main.c", *libraries, "-lm", "-lpthread", "-o", program)
    run(program)
