"""Errors that a user can cause, each one sentence with its exit code, and refusals, which are values.

A `SparseccError` says what was expected, what was found, where, and what to try. The command line prints
the sentence and exits with `exit_code`; anything else that escapes is our bug (exit code 70).
"""

from __future__ import annotations

from dataclasses import dataclass


class SparseccError(Exception):
    """Base of all errors that are answers to a user, never a defect of the library."""

    exit_code = 4


class UsageError(SparseccError):
    """A call or command line that asks for something which does not exist or contradicts itself."""

    exit_code = 2


class CaptureError(SparseccError):
    """A source that cannot be read as a model."""

    exit_code = 3


class UnsupportedOpError(SparseccError):
    """An op, attribute or shape that the requested step has no rule for."""

    exit_code = 3


class VerificationError(SparseccError):
    """A check on a graph or on numbers failed."""

    exit_code = 4


class LoweringError(SparseccError):
    """A graph that is valid but cannot be lowered, linked or written for the target."""

    exit_code = 3


class ArtifactError(SparseccError):
    """An artifact that is damaged, of another version or for another machine, or wrong data given to it."""

    exit_code = 4


@dataclass(frozen=True)
class Refusal:
    """Why something was not done, for the user to read.

    Attributes:
        reason: one sentence.
        where: the node or initializer it is about.
        code: a short stable word for tables and tests, such as `too-small`.
    """

    reason: str
    where: str
    code: str
