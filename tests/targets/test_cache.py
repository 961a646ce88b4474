"""The kernel cache: bounded, safe with several processes, and never of other sources than those that run."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsecc.targets import build, cache, sources
from sparsecc.targets.cache import KernelCache, cache_folder

OBJECT = b"\x7fELF and so on"


def fill(folder: Path, key: int, age: int, size: int = 0) -> KernelCache:
    """A folder with one object, last used `age` seconds ago."""
    made = KernelCache(folder, f"{key:016x}")
    made.write("kernel", OBJECT + bytes(size))
    used = (folder / made.key).stat().st_mtime - age
    os.utime(folder / made.key, (used, used))
    return made


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = KernelCache(tmp_path / "new", "0" * 16)
    assert made.read("kernel") is None
    made.write("kernel", OBJECT)
    made.write("kernel", OBJECT)
    assert made.read("kernel") == OBJECT
    assert [path.name for path in (tmp_path / "new" / made.key).iterdir()] == ["kernel.o"]


def test_a_torn_object_is_built_again(tmp_path: Path) -> None:
    made = fill(tmp_path, 0, 0)
    (tmp_path / made.key / "kernel.o").write_bytes(b"")
    assert made.read("kernel") is None
    made.write("kernel", OBJECT)
    assert made.read("kernel") == OBJECT


def test_folders_used_longest_ago_go(tmp_path: Path) -> None:
    kept = [fill(tmp_path, key, age=key) for key in range(cache.FOLDERS + 3)]
    kept[cache.FOLDERS].shrink()  # its own folder counts as used now
    found = {made.key for made in kept if made.read("kernel")}
    assert found == {kept[key].key for key in (*range(cache.FOLDERS - 1), cache.FOLDERS)}
    assert len(list(tmp_path.iterdir())) == cache.FOLDERS


def test_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BYTES", 2500)
    made = [fill(tmp_path, key, age=key, size=1000) for key in range(5)]
    made[0].shrink()
    assert [m.read("kernel") is not None for m in made] == [True, True, True, False, False]
    fill(tmp_path, 9, age=0, size=10_000).shrink()
    assert made[0].read("kernel"), "the folder in use does not count"


def test_what_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FOLDERS", 1)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.o").write_bytes(OBJECT)
    (tmp_path / "notes.txt").write_text("")
    old = fill(tmp_path, 1, age=9)
    (tmp_path / old.key / "notes.txt").write_text("")
    fill(tmp_path, 2, age=0).shrink()
    assert old.read("kernel") is None
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"thesis/a.o", "notes.txt", f"{old.key}/notes.txt", f"{2:016x}/kernel.o"}


def test_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FOLDERS", 2)

    def work(key: int) -> None:
        made = KernelCache(tmp_path, f"{key % 5:016x}")
        for symbol in range(20):
            made.write(str(symbol), OBJECT)
            assert made.read(str(symbol)) in (None, OBJECT)
            made.shrink()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(10)))
    KernelCache(tmp_path, "0" * 16).shrink()
    assert len(list(tmp_path.iterdir())) <= 3


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = KernelCache(tmp_path / "file", "0" * 16)
    made.write("kernel", OBJECT)
    made.shrink()
    assert made.read("kernel") is None


def test_builds_go_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSECC_CACHE", str(tmp_path))
    built: list[int] = []

    def object_bytes(func: int, target: object) -> bytes:
        built.append(func)
        return OBJECT

    monkeypatch.setattr(build, "_object_bytes", object_bytes)
    makers = {str(i): (lambda i=i: i) for i in range(3)}
    target: dict[str, object] = {"kind": "llvm", "mcpu": "x86-64-v3"}
    for version, count in (("a", 3), ("a", 3), ("b", 6), (None, 9), (None, 12), ("b", 12)):
        objects = build.build_objects(makers, target, source_version=version)  # type: ignore[arg-type]
        assert objects == dict.fromkeys(makers, OBJECT)
        assert len(built) == count
    assert len(list(cache_folder().iterdir())) == 2


def test_changed_sources_have_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    version = sources.source_version()
    assert version is None or len(version) == 64
    monkeypatch.setattr(sources, "_AT_IMPORT", "of other sources")
    assert sources.source_version() is None


def test_sources_are_read_before_any_is_imported() -> None:
    text = "import sys, sparsecc.targets; print(sorted(m for m in sys.modules if 'sparsecc.targets' in m))"
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["['sparsecc.targets',", "'sparsecc.targets.sources']"]
