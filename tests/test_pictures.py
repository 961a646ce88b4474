"""Pictures for calibration are found in the files that packages install."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import pictures


def webp(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "WEBP", lossless=True)
    return file.getvalue()


def test_photographs_inside_resource_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are buttons, other RIFF files are sounds, other activities have drawings."""
    monkeypatch.setattr(pictures, "GCOMPRIS", tmp_path)
    sound = b"RIFF" + (20).to_bytes(4, "little") + b"WAVE" + bytes(16)
    parts = [b"qres", webp((300, 250), (10, 200, 30)), sound, webp((64, 64), (1, 2, 3))]
    (tmp_path / "erase.rcc").write_bytes(b"\0".join([*parts, webp((201, 400), (200, 0, 0))]))
    (tmp_path / "explore_farm.rcc").write_bytes(webp((200, 200), (0, 0, 250)))
    (tmp_path / "lang.rcc").write_bytes(webp((300, 300), (0, 0, 0)))
    found = pictures.photographs.__wrapped__()
    assert [image.size for image in found] == [(300, 250), (201, 400), (200, 200)]
    assert found[1].getpixel((100, 100)) == (200, 0, 0)


def test_stamps_are_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many colours where they are solid, large enough, and in no folder of drawings."""
    monkeypatch.setattr(pictures, "STAMPS", tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (120, 130, 4)).astype(np.uint8)
    noise[..., 3] = 255
    clear = noise.copy()
    clear[..., 3] = 9
    flat = np.full_like(noise, 255)
    cases = {"a": noise, "b": clear, "c": flat, "d": noise[:90], "cartoon/e": noise}
    for name, pixels in cases.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels, "RGBA").save(path)
    (found,) = pictures.stamps.__wrapped__()
    np.testing.assert_array_equal(np.asarray(found), noise)


@pytest.mark.parametrize("folder", ["GCOMPRIS", "STAMPS"])
def test_what_is_not_installed_is_named(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, folder, tmp_path / "none")
    make = pictures.photographs if folder == "GCOMPRIS" else pictures.stamps
    with pytest.raises(SystemExit, match="apt install --no-install-recommends"):
        make.__wrapped__()
