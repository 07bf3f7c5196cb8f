"""An attested channel, and how it becomes the transport of an HTTP client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import httpx2

from . import _errors, _native
from ._proof import Proof

ORIGIN = "https://cleanroom.invalid"
"""What the clients take for their server. The name can never be resolved (RFC 6761), so whatever in them does
not use the channel reaches nobody."""


class Problems(Protocol):
    """Makes an exception of a problem."""

    def __call__(self, problem: _native.Problem, request: httpx2.Request, proof: Proof | None) -> Exception: ...


class Channel:
    """An attested channel to a clean room. Nothing is connected before it is needed.

    It proves the clean room before the first request, and again before the evidence is too old. Several clients
    and threads may share it.

    address: `HOST:PORT` or `unix:PATH`; or several, the preferred one first.
    policy: your policy, the file that `cleanroom verify` reads.
    policy_sha256: what SHA-256 of that file must be.
    key: your key, made by `cleanroom key new`.
    model: the model to use; not needed when the policy has only one.
    proxy: the HTTP proxy to reach hosts through, or `none`; without it the environment decides.
    receipts: a folder in which each receipt is kept before its answer counts.
    record: a folder in which a record of each verification is kept, also of those that fail.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        policy: str | os.PathLike[str] = "trust.toml",
        policy_sha256: str | None = None,
        key: str | os.PathLike[str] = "cleanroom.key",
        model: str | None = None,
        proxy: str | None = None,
        receipts: str | os.PathLike[str] | None = None,
        record: str | os.PathLike[str] | None = None,
    ) -> None:
        addresses = [address] if isinstance(address, str) else list(address)
        try:
            self._native = _native.Channel(
                addresses,
                policy=policy,
                policy_sha256=policy_sha256,
                key=key,
                model=model,
                proxy=proxy,
                receipts=receipts,
                record=record,
            )
        except _native.Failed as error:
            raise _errors.failure(error) from None
        self._addresses = addresses

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._native.model

    @property
    def partner(self) -> str:
        """SHA-256 of your key, by which the clean room knows you."""
        return self._native.partner

    def prove(self) -> Proof:
        """Proves the clean room now, unless it is proven already.

        Raises `NotProven` when it is refused, and `NotReached` when nobody answers.
        """
        return _proven(_wait(self._native.prove))

    async def prove_async(self) -> Proof:
        """The same on an event loop."""
        return _proven(await _await(self._native.prove))

    def __repr__(self) -> str:
        return f"<channel to {', '.join(self._addresses)} for the model {self.model}>"


def _proven(done: object) -> Proof:
    if isinstance(done, _native.Problem):
        raise _errors.from_problem(done)
    assert isinstance(done, _native.Proof)
    return Proof(done)


def _wait(begin: Callable[[], _native.Pending], timeout: float | None = None) -> Any:
    """Waits for the work that `begin` begins."""
    try:
        return begin().wait(timeout)
    except _native.Failed as error:
        raise _errors.failure(error) from None


async def _await(begin: Callable[[Callable[[], object]], _native.Pending], timeout: float | None = None) -> Any:
    """Waits for work on this event loop. If the waiting is cancelled, the work is."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    try:
        pending = begin(partial(loop.call_soon_threadsafe, _settle, done))
    except _native.Failed as error:
        raise _errors.failure(error) from None
    try:
        await asyncio.wait_for(done, timeout)
        return pending.take()
    except asyncio.TimeoutError:
        raise TimeoutError("no answer in time") from None
    except _native.Failed as error:
        raise _errors.failure(error) from None
    finally:
        pending.cancel()


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class _Exchange:
    """What the two transports share."""

    def __init__(self, channel: Channel, problems: Problems) -> None:
        self.channel = channel
        self.problems = problems

    def begin(self, request: httpx2.Request) -> Callable[..., _native.Pending]:
        url = request.url
        if f"{url.scheme}://{url.host}" != ORIGIN or url.port is not None:
            raise httpx2.UnsupportedProtocol("this client speaks to its clean room alone", request=request)
        path = url.raw_path.decode("ascii")
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        return partial(self.channel._native.send, request.method, path, headers, request.content)

    def response(self, request: httpx2.Request, done: object, stream: type[Any]) -> httpx2.Response:
        if isinstance(done, _native.Problem):
            status, headers, content = done.response(request.url.path)
            response = httpx2.Response(status, headers=headers, content=content)
            response.extensions["cleanroom_problem"] = done
            return response
        assert isinstance(done, _native.Answer)
        proof = Proof(done.proof)
        # Exceptions know their request, and not always their response.
        request.extensions = {**request.extensions, "cleanroom": proof}
        extensions = {"cleanroom": proof}
        if done.whole is not None:
            return httpx2.Response(done.status, headers=done.headers, content=done.whole, extensions=extensions)
        body = stream(done, request, partial(self.problems, request=request, proof=proof))
        return httpx2.Response(done.status, headers=done.headers, stream=body, extensions=extensions)


def _read_timeout(request: httpx2.Request) -> float | None:
    read: float | None = request.extensions.get("timeout", {}).get("read")
    return read


class Transport(httpx2.BaseTransport):
    """Sends the requests of an `httpx2.Client` over a channel."""

    def __init__(self, channel: Channel, problems: Problems) -> None:
        self._exchange = _Exchange(channel, problems)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        try:
            done = _wait(self._exchange.begin(request), _read_timeout(request))
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from None
        return self._exchange.response(request, done, _Stream)


class AsyncTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of an `httpx2.AsyncClient` over a channel. It needs asyncio."""

    def __init__(self, channel: Channel, problems: Problems) -> None:
        self._exchange = _Exchange(channel, problems)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        begin = self._exchange.begin(request)
        try:
            done = await _await(lambda wake: begin(wake), _read_timeout(request))
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from None
        return self._exchange.response(request, done, _AsyncStream)


class _Stream(httpx2.SyncByteStream):
    def __init__(
        self, answer: _native.Answer, request: httpx2.Request, problem: Callable[[_native.Problem], Exception]
    ) -> None:
        self._answer, self._request, self._problem = answer, request, problem

    def __iter__(self) -> Iterator[bytes]:
        timeout = _read_timeout(self._request)
        while True:
            try:
                piece = _wait(self._answer.next, timeout)
            except TimeoutError as error:
                raise httpx2.ReadTimeout(str(error), request=self._request) from None
            if piece is None:
                return
            if isinstance(piece, _native.Problem):
                raise self._problem(piece)
            yield piece

    def close(self) -> None:
        self._answer.close()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(
        self, answer: _native.Answer, request: httpx2.Request, problem: Callable[[_native.Problem], Exception]
    ) -> None:
        self._answer, self._request, self._problem = answer, request, problem

    async def __aiter__(self) -> AsyncIterator[bytes]:
        timeout = _read_timeout(self._request)
        while True:
            try:
                piece = await _await(self._answer.next, timeout)
            except TimeoutError as error:
                raise httpx2.ReadTimeout(str(error), request=self._request) from None
            if piece is None:
                return
            if isinstance(piece, _native.Problem):
                raise self._problem(piece)
            yield piece

    async def aclose(self) -> None:
        self._answer.close()
