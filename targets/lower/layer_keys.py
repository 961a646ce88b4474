"""What similar keys look like: `spmm 256x128 on 1x13 vectors, 1 taps stored 1x1:20 2x1:35 4x1:60 8x1:85`."""

from __future__ import annotations

import re

STEP = 5
"""Of the shares of stored blocks, in percent."""

_KEY = re.compile(r"(spmm|dots|rows) .* stored \d+x\d+:\d+( \d+x\d+:\d+)*")


def is_similar_key(text: str) -> bool:
    """Whether this is one."""
    return _KEY.fullmatch(text) is not None


def split_key(text: str) -> tuple[str, tuple[int, ...]]:
    """A similar key as everything but the zeros, and the shares."""
    layer, _, shares = text.partition(" stored ")
    return layer, tuple(int(share.partition(":")[2]) for share in shares.split())
