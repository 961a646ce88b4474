"""Pipeline specs: text <-> passes, where options are the dataclass fields that differ from their defaults.

fold-constants,sparsify{pattern=4x1 sparsity=0.8 skip="conv 1",head.*},fuse-epilogues
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

from sparsecc.errors import UsageError
from sparsecc.passes.base import Pass
from sparsecc.passes.registry import get_pass

NAME = re.compile(r"[a-z][a-z0-9-]*")
TOKEN = re.compile(r'\s*(?:([a-z][a-z0-9-]*)\s*=|([{},])|("(?:[^"\\]|\\.)*")|([^\s{},"=]+))')
BARE = re.compile(r'[^\s{},"=\\]+')

PassType = type[Pass]


def option_name(field_name: str) -> str:
    """`min_size` -> `min-size`."""
    return field_name.replace("_", "-")


def options_of(cls: PassType) -> dict[str, Any]:
    """Option name -> type, in the order of the fields."""
    hints = get_type_hints(cls)
    return {option_name(field.name): hints[field.name] for field in dataclasses.fields(cls)}


def print_pass(item: Pass) -> str:
    """`name` or `name{option=value ...}` with the options that differ from their defaults."""
    texts = [
        f"{option_name(field.name)}={_print_value(getattr(item, field.name))}"
        for field in dataclasses.fields(item)
        if getattr(item, field.name) != field.default
    ]
    return f"{item.name}{{{' '.join(texts)}}}" if texts else item.name


def parse_passes(text: str) -> tuple[Pass, ...]:
    """Passes of a pipeline spec; the empty text has none.

    Raises:
        UsageError: bad syntax, an unknown pass, an unknown option or a value of the wrong type.
    """
    return tuple(_build(name, options) for name, options in _split(text))


def _print_value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_print_word(item) for item in value) if value else '""'
    return str(value).lower() if isinstance(value, bool) else _print_word(str(value))


def _print_word(word: str) -> str:
    if BARE.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _split(text: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield each pass's name and its options as lists of words."""
    position = 0
    while position < len(text) or position:
        name = NAME.match(text, position)
        if name is None:
            raise _error(text, position, "a pass name")
        position = name.end()
        options: dict[str, list[str]] = {}
        if text[position : position + 1] == "{":
            position = _read_options(text, position + 1, options)
        yield name[0], options
        if position == len(text):
            return
        if text[position] != ",":
            raise _error(text, position, "a comma")
        position += 1


def _read_options(text: str, position: int, options: dict[str, list[str]]) -> int:
    """Read up to and including the closing brace; returns the position after it."""
    words: list[str] | None = None
    expects_word = False
    while match := TOKEN.match(text, position):
        key, sign, quoted, bare = match.groups()
        if key is not None and not expects_word:
            if key in options:
                raise UsageError(f"option {key} is given twice in {text!r}")
            words = options[key] = []
            expects_word = True
        elif sign == "}" and not expects_word:
            return match.end()
        elif sign == "," and words is not None and not expects_word:
            expects_word = True
        elif (quoted or bare) and words is not None and expects_word:
            words.append(re.sub(r"\\(.)", r"\1", quoted[1:-1]) if quoted else bare)
            expects_word = False
        else:
            break
        position = match.end()
    raise _error(text, position, "a value" if expects_word else "option=value or }")


def _error(text: str, position: int, expected: str) -> UsageError:
    found = repr(text[position : position + 12]) if position < len(text) else "the end"
    return UsageError(
        f"pipeline {text!r} has {found} at position {position} where {expected} was expected; "
        f"write name{{option=value option=value}},name"
    )


def _build(name: str, options: dict[str, list[str]]) -> Pass:
    cls = get_pass(name)
    known = options_of(cls)
    values: dict[str, Any] = {}
    for option, words in options.items():
        if option not in known:
            choices = f"its options are {', '.join(known)}" if known else "it has no options"
            raise UsageError(f"pass {name} has no option {option}; {choices}")
        values[option.replace("-", "_")] = _convert(name, option, words, known[option])
    return cls(**values)


def _convert(name: str, option: str, words: list[str], kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return () if words == [""] else tuple(words)
    word = ",".join(words)
    if kind is bool and word in ("true", "false"):
        return word == "true"
    if kind is str:
        return word
    if kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    raise UsageError(f"option {option} of pass {name} takes {_kind_text(kind)}, not {word!r}")


def _kind_text(kind: Any) -> str:
    return {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "text")
