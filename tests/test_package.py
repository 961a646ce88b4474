"""What is built is complete: the wheel runs an example on its own, and runs artifacts with numpy alone."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("sparsecc", "passes", "targets")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def clean(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with the wheel and numpy only."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "env", with_pip=True, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", wheel)
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    ours = Path(sysconfig.get_path("purelib"))
    for name in ("numpy", "numpy.libs"):
        if (ours / name).exists():
            (purelib / name).symlink_to(ours / name)
    return python


def run(*command: object, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed, without what this process has set for Python."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd or "/",
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> set[str]:
    """Files of the packages in the repository, as they are named when installed."""
    found: set[str] = set()
    for top in SHIPPED:
        for path in (ROOT / top).rglob("*"):
            below = path.relative_to(ROOT)
            linked = top == "sparsecc" and below.parts[1] in SHIPPED
            if path.is_file() and not linked and path.suffix in (".py", ".c", ".h", ".mjs", ".mts", ".typed"):
                found.add(str(below if top == "sparsecc" else Path("sparsecc") / below))
    return found


def test_wheel_holds_every_source(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert sources() <= names
    assert not [name for name in names if name.startswith(("passes/", "targets/", "tests/", "benchmarks/"))]


def test_sdist_holds_every_source(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in sources():
        plain = name.removeprefix("sparsecc/")
        assert name in names or plain in names, name


def test_numpy_alone_runs_an_artifact(clean: Path, tmp_path: Path) -> None:
    """Compiled here, run there, with neither TVM nor torch nor ONNX."""
    import torch

    import sparsecc

    module = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.GELU(), torch.nn.Linear(96, 5))
    sparsecc.compile(
        module,
        out=tmp_path / "m.scc",
        example_inputs=torch.zeros(2, 64),
        passes="sparsify{pattern=4x1 sparsity=0.5}",
    )
    script = tmp_path / "use.py"
    script.write_text(
        "import sys, numpy, sparsecc\n"
        "with sparsecc.load(sys.argv[1], threads=2) as session:\n"
        "    (y,) = session.run({session.inputs[0].name: numpy.ones((2, 64), numpy.float32)}).values()\n"
        "print(y.shape, bool(numpy.isfinite(y).all()))\n"
        "print(*sorted(m for m in sys.modules if m in ('tvm', 'torch', 'onnx', 'onnx_ir', 'onnxruntime')))\n"
    )
    assert run(clean, script, tmp_path / "m.scc", cwd=tmp_path).split("\n")[:2] == ["(2, 5) True", ""]
    tool = clean.with_name("sparsecc")
    run(tool, "run", tmp_path / "m.scc", "-o", tmp_path / "y.npz", cwd=tmp_path)
    run(tool, "inspect", tmp_path / "m.scc", cwd=tmp_path)
    run(tool, "bench", tmp_path / "m.scc", "--runs", "30", cwd=tmp_path)


def test_missing_compiler_packages_are_named(clean: Path, tmp_path: Path) -> None:
    """Without the `compile` extra, compiling says what to install."""
    done = subprocess.run(
        [str(clean), "-m", "sparsecc", "compile", "model.onnx"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "pip install 'sparsecc[compile]'" in done.stderr


def test_wheel_compiles_an_example(built: Path, tmp_path: Path) -> None:
    """The example runs from the installed wheel, outside the repository, with this environment's packages."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    zipfile.ZipFile(wheel).extractall(purelib)
    paths = [path for path in (*site.getsitepackages(), sysconfig.get_path("purelib")) if Path(path).is_dir()]
    (purelib / "others.pth").write_text("\n".join(dict.fromkeys(paths)) + "\n")
    example = tmp_path / "example.py"
    example.write_text((ROOT / "examples" / "02_torch_module.py").read_text(encoding="utf-8"))
    out = run(python, example, cwd=tmp_path)
    assert "largest difference" in out
    where = run(python, "-c", "import sparsecc; print(sparsecc.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where
