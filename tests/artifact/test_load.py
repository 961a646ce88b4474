"""Loading: whatever was changed in an artifact, and whatever this machine lacks, gets a sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from artifact_plans import check, example_inputs

from sparsecc import host
from sparsecc.artifact import Manifest, host_features, host_machine, load, read_artifact
from sparsecc.artifact.manifest import parse_manifest
from sparsecc.errors import ArtifactError

FILES = ("manifest.json", "libmodel.so", "libmodel.a", "model.h", "run_model.c", "weights.bin")


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    """An artifact that the test may change."""
    return shutil.copytree(artifact, tmp_path / "copy.scc")


def refusal(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert caught.value.exit_code == 4
    return str(caught.value)


def rewrite(folder: Path, **changes: Any) -> Manifest:
    """Change fields of a manifest and its checksum with them, as another writer could."""
    path = folder / "manifest.json"
    manifest = dataclasses.replace(parse_manifest(path.read_bytes(), "m"), **changes)
    path.write_bytes(manifest.to_bytes())
    return manifest


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << random.Random(at).randrange(8)
    path.write_bytes(data)


def test_the_folder_has_these_files(artifact: Path) -> None:
    assert sorted(path.name for path in artifact.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_flipped_byte(copy: Path, name: str, where: str) -> None:
    size = (copy / name).stat().st_size
    flip(copy / name, {"first": 0, "middle": size // 2, "last": size - 1}[where])
    assert name in refusal(copy)


def test_flipped_byte_anywhere_in_the_manifest(artifact: Path) -> None:
    data = (artifact / "manifest.json").read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(ArtifactError):
            parse_manifest(bytes(changed), "manifest.json")


def test_flipped_byte_anywhere_in_an_archive(archive: Path, tmp_path: Path) -> None:
    load(archive).close()  # a good copy in the cache must not hide the damage
    data = archive.read_bytes()
    copy = tmp_path / "copy.scc"
    # The zip's own records at the end, byte by byte, and a sample of the rest.
    places = [*range(0, len(data), 997), *range(len(data) - 700, len(data))]
    for at in places:
        copy.write_bytes(data)
        flip(copy, at)
        refusal(copy)


@pytest.mark.parametrize("cut", [0, 1, 100])
@pytest.mark.parametrize("name", FILES)
def test_truncated_file(copy: Path, name: str, cut: int) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:cut])
    assert name in refusal(copy)


@pytest.mark.parametrize("name", FILES)
def test_removed_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert name in refusal(copy)
    (copy / name).mkdir()
    assert name in refusal(copy)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_other_format_version(copy: Path, version: int) -> None:
    rewrite(copy, format_version=version)
    assert f"has format version {version}, and this sparsecc reads 1 to 1" in refusal(copy)


def test_other_machine(copy: Path) -> None:
    rewrite(copy, machine="riscv64-plan9")
    assert f"was compiled for riscv64-plan9, and this machine is {host_machine()}" in refusal(copy)


def test_missing_cpu_features(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rewrite(copy, features=("sse4_2", "amx_future"))
    assert "needs the CPU features amx_future, which this machine lacks" in refusal(copy)

    rewrite(copy, features=("avx2", "avx512f"))
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t\t: fpu avx2 avx512f\n\nflags\t\t: fpu avx2\n")  # two unlike processors
    monkeypatch.setattr(host, "_CPUINFO", info)
    host_features.cache_clear()
    try:
        assert host_features() == {"fpu", "avx2"}
        assert "needs the CPU features avx512f, which" in refusal(copy)
        info.unlink()
        host_features.cache_clear()
        assert "needs the CPU features avx2, avx512f, which" in refusal(copy)
    finally:
        host_features.cache_clear()


def test_host() -> None:
    assert host_machine() == f"{platform.machine()}-linux"
    if platform.machine() == "x86_64":
        assert {"fpu", "sse2"} <= host_features()


@pytest.mark.parametrize(
    "name", ["../weights.bin", "/etc/passwd", "a/b", ".hidden", "", "manifest.json", "a\nb"]
)
def test_file_names_must_be_plain(copy: Path, name: str) -> None:
    manifest = parse_manifest((copy / "manifest.json").read_bytes(), "m")
    rewrite(copy, files={**manifest.files, name: manifest.files["model.h"]})
    assert "expected plain file names" in refusal(copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparsecc_version", 1),
        ("name", "a b"),
        ("machine", None),
        ("features", "avx2"),
        ("features", (1,)),
        ("optional_features", "avx2"),
        ("inputs", ({"name": "x"},)),
        ("inputs", ({"name": "x", "dtype": "object", "shape": ()},)),
        ("inputs", ({"name": "x", "dtype": "no type", "shape": ()},)),
        ("inputs", ({"name": "x", "dtype": "float32", "shape": (-1,)},)),
        ("inputs", ({"name": "x", "dtype": "float32", "shape": (True,)},)),
        ("arena_bytes", -1),
        ("weights_embedded", 0),
        ("steps", ("x",)),
        ("files", []),
        ("files", {"model.h": {"sha256": "zz", "bytes": 1}}),
        ("report", []),
        ("format_version", "1"),
    ],
)
def test_fields_have_kinds(copy: Path, field: str, value: Any) -> None:
    rewrite(copy, **{field: value})
    assert f"field '{field}': expected" in refusal(copy)


def test_missing_fields(copy: Path) -> None:
    path = copy / "manifest.json"
    fields: dict[str, Any] = json.loads(path.read_text())
    assert fields.pop("optional_features") == []  # what older writers do not have
    for name in fields:
        body = json.dumps(
            {key: value for key, value in fields.items() if key not in (name, "sha256")}, indent=1
        )
        body = body.removeprefix("{\n") + "\n"
        first = "{\n" if name == "sha256" else f'{{"sha256": "{hashlib.sha256(body.encode()).hexdigest()}",\n'
        path.write_text(first + body)
        expected = "does not match its own SHA-256" if name == "sha256" else f"has no field '{name}'"
        assert expected in refusal(copy)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"null", b"\xff\xfe", b"{" * 200_000, b"[" * 200_000, b'{"format_version": NaN}'],
)
def test_manifest_that_is_something_else(copy: Path, content: bytes) -> None:
    (copy / "manifest.json").write_bytes(content)
    assert "manifest.json" in refusal(copy)


@pytest.mark.parametrize("name", ["libmodel.so", "weights.bin"])
def test_manifest_must_list_what_runs(copy: Path, name: str) -> None:
    manifest = parse_manifest((copy / "manifest.json").read_bytes(), "m")
    rewrite(copy, files={key: value for key, value in manifest.files.items() if key != name})
    assert f"does not list {name}" in refusal(copy)


def test_library_of_another_name(copy: Path) -> None:
    rewrite(copy, name="other")
    assert "cannot open the library" in refusal(copy)


def test_paths_that_are_not_artifacts(tmp_path: Path) -> None:
    assert "there is no artifact at" in refusal(tmp_path / "nothing.scc")
    assert "it has no manifest.json" in refusal(tmp_path)
    for content in (b"", b"x", b"PK\x03\x04" + bytes(500)):
        (tmp_path / "file").write_bytes(content)
        assert "is not an artifact" in refusal(tmp_path / "file")
    assert "there is no artifact at" in refusal(tmp_path / "file" / "inside")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop")


def test_archive_runs(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        assert sorted(file.namelist()) == sorted(FILES)
    for _ in range(2):  # extracted, then found in the cache
        with load(archive, threads=2) as session:
            check(example_inputs(), session.run(example_inputs()))
    (folder,) = (tmp_path / "cache" / "artifacts").iterdir()
    assert folder.name == hashlib.sha256(archive.read_bytes()[:-64]).hexdigest()


def test_archive_with_a_damaged_cache(archive: Path) -> None:
    _, folder = read_artifact(archive)
    flip(folder / "weights.bin", 100)
    (folder / "model.h").unlink()
    with load(archive) as session:
        check(example_inputs(), session.run(example_inputs()))


def test_archives_that_nobody_opens_leave_the_cache(archive: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache" / "artifacts"
    names = ("a" * 64, "b" * 64, ".extract-left", "thesis")
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "weights.bin").write_bytes(b"")
    for name in (names[0], *names[2:]):
        os.utime(root / name, (0, 0))
    _, folder = read_artifact(archive)
    assert {path.name for path in root.iterdir()} == {names[1], "thesis", folder.name}
    os.utime(folder, (0, 0))
    _, again = read_artifact(archive)
    assert again == folder and folder.stat().st_mtime > 0


def test_archive_without_a_cache(archive: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSECC_CACHE", str(tmp_path / "file"))
    assert "set SPARSECC_CACHE to a folder that can be written" in refusal(archive)


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b"])
def test_archive_with_other_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.scc"
    mark = b"sparsecc artifact, sha256 "
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"data")
        file.comment = mark + b"0" * 64
    data = path.read_bytes()[:-64]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())
    assert "it holds" in refusal(path)
    assert not (tmp_path / "evil").exists()
