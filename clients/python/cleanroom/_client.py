"""What the four client classes share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import httpx2

from . import _errors, _native
from ._channel import ORIGIN, Channel, Problems
from ._proof import Proof

UNUSED_KEY = "the partner's key proves who it is"
"""The official clients want an API key. It stays in this process."""

Address = str | Sequence[str]
PathLike = str | os.PathLike[str]


def channel_of(channel: Channel | Address | None, options: dict[str, Any], client: Any) -> Channel:
    """The channel that a client's arguments name."""
    given = {name: value for name, value in options.items() if value is not None}
    inherited = getattr(client, "_cleanroom_channel", None)
    if client is not None and inherited is None:
        raise TypeError("http_client would send without a proof; a cleanroom client has its own")
    if isinstance(channel, Channel):
        if given:
            raise TypeError(f"a Channel is whole already; {', '.join(given)} belongs to Channel(…)")
        return channel
    if channel is None and inherited is not None:
        assert isinstance(inherited, Channel)
        return inherited
    channel = channel or os.environ.get("CLEANROOM_ADDRESS")
    if channel is None:
        raise TypeError(
            "expected a Channel, or the address of a clean room such as 'cleanroom.example:8443', "
            "here or in the variable CLEANROOM_ADDRESS"
        )
    return Channel(channel, **given)


def http_options(base_url: Any, path: str) -> str:
    """The base URL, which can only be the channel's own."""
    expected = ORIGIN + path
    if base_url is not None and str(base_url).rstrip("/") != expected:
        raise TypeError("base_url is no choice here: requests go to the proven clean room alone")
    return expected


def problems(not_proven: type[Exception], not_reached: type[Exception]) -> Problems:
    """Makes the exceptions of one official package."""

    def make(problem: _native.Problem, request: httpx2.Request, proof: Proof | None) -> Exception:
        wanted = not_proven if _errors.kind(problem) is _errors.NotProven else not_reached
        error = wanted(message=problem.message, request=request)  # type: ignore[call-arg]
        assert isinstance(error, _errors.CleanroomError)
        _errors.describe(error, problem, proof)
        return error

    return make


def status_error(make: Problems, response: httpx2.Response, official: Any) -> Any:
    """The exception for a response that is no success: ours if the response is, the official one otherwise."""
    problem = response.extensions.get("cleanroom_problem")
    if problem is not None:
        return make(problem, request=response.request, proof=None)
    official.cleanroom = response.extensions.get("cleanroom")
    return official


def with_proof(answer: Any, response: httpx2.Response) -> Any:
    """The answer with the proof as its attribute `cleanroom`, which no serialisation shows."""
    try:
        object.__setattr__(answer, "cleanroom", response.extensions["cleanroom"])
    except (AttributeError, TypeError, KeyError):
        # Strings and other plain values have no attributes.
        pass
    return answer
