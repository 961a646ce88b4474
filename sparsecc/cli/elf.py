"""The libraries that an ELF file needs, read from its dynamic section (System V gABI, chapter 5)."""

from __future__ import annotations

import struct
from pathlib import Path

_DYNAMIC, _LOAD = 2, 1  # program header types
_NEEDED, _STRTAB = 1, 5  # dynamic tags


def needed_libraries(path: Path) -> list[str]:
    """Names such as `libc.so.6`; empty for what is no 64-bit little-endian ELF file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return []
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, offset + index * size) for index in range(count)]
    entries = [
        struct.unpack_from("<qQ", data, at)
        for kind, _, start, _, _, length, _, _ in headers
        if kind == _DYNAMIC
        for at in range(start, start + length, 16)
    ]
    address = next((value for tag, value in entries if tag == _STRTAB), 0)
    strings = next(
        (p + address - v for k, _, p, v, _, n, _, _ in headers if k == _LOAD and v <= address < v + n), 0
    )
    return [_text(data, strings + value) for tag, value in entries if tag == _NEEDED]


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
