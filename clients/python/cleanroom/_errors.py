"""The exceptions. None of them repeats anything of a request or an answer."""

from __future__ import annotations

import json
from typing import Any

from . import _native


class Failure(Exception):
    """Nothing was judged: a file of your own is wrong, or a command could not come to a result."""

    code: str

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CleanroomError(Exception):
    """There is no answer of a proven clean room, or not a whole one.

    The clients raise classes that are this and the official package's `APIConnectionError` at once.
    """

    code: str
    """A stable word for the reason, the same as the program `cleanroom` gives."""

    reach: str
    """How far the request got: `never-sent`, `may-have-been-sent` or `was-sent`."""

    verdict: dict[str, Any] | None
    """The verdict on evidence that was refused."""

    cleanroom: Any
    """What was proven before the request was sent, if it was sent: a `cleanroom.Proof`."""


class NotProven(CleanroomError):
    """The clean room was refused: it could not prove what your policy asks for. Nothing was sent."""


class NotReached(CleanroomError):
    """No clean room was reached, or the connection to it was lost. `reach` says how far the request got."""


def kind(problem: _native.Problem) -> type[NotProven] | type[NotReached]:
    return NotProven if problem.refused and problem.reach == "never-sent" else NotReached


def describe(error: CleanroomError, problem: _native.Problem, proof: object = None) -> None:
    """Puts what is known of a problem onto an exception."""
    verdict = problem.verdict()
    error.code = problem.code
    error.reach = problem.reach
    error.verdict = None if verdict is None else json.loads(verdict)
    error.cleanroom = proof


def from_problem(problem: _native.Problem) -> CleanroomError:
    error = kind(problem)(problem.message)
    describe(error, problem)
    return error


def failure(error: _native.Failed) -> Failure:
    code, message = error.args
    return Failure(code, message)
