"""The official `openai` clients over an attested channel."""

from __future__ import annotations

from typing import Any

import openai
import httpx2

from . import _client, _errors
from ._channel import AsyncTransport, Channel, Transport


class NotProven(_errors.NotProven, openai.APIConnectionError):  # type: ignore[misc]
    """The clean room was refused. Nothing was sent."""


class NotReached(_errors.NotReached, openai.APIConnectionError):  # type: ignore[misc]
    """No clean room was reached, or the connection to it was lost."""


_problems = _client.problems(NotProven, NotReached)


class OpenAI(openai.OpenAI):
    """The official client, whose requests go to a proven clean room alone.

    channel: a `Channel`, or the address of a clean room. With an address, `policy`, `policy_sha256`, `key`,
    `cleanroom_model`, `proxy`, `receipts` and `record` are those of a `Channel`.

    All other arguments are those of `openai.OpenAI`, but for `base_url` and `http_client`, which would lead
    elsewhere. An API key is not needed; if one is given, it stays in this process.
    """

    def __init__(
        self,
        channel: Channel | _client.Address | None = None,
        *,
        policy: _client.PathLike | None = None,
        policy_sha256: str | None = None,
        key: _client.PathLike | None = None,
        cleanroom_model: str | None = None,
        proxy: str | None = None,
        receipts: _client.PathLike | None = None,
        record: _client.PathLike | None = None,
        api_key: Any = None,
        base_url: str | httpx2.URL | None = None,
        http_client: httpx2.Client | None = None,
        **options: Any,
    ) -> None:
        files = {"policy": policy, "policy_sha256": policy_sha256, "key": key, "receipts": receipts}
        files |= {"record": record, "model": cleanroom_model, "proxy": proxy}
        self.channel = _client.channel_of(channel, files, http_client)
        if http_client is None:
            transport = Transport(self.channel, _problems)
            http_client = openai.DefaultHttpxClient(transport=transport, trust_env=False, follow_redirects=False)
            http_client._cleanroom_channel = self.channel  # type: ignore[attr-defined]
        super().__init__(
            api_key=api_key or _client.UNUSED_KEY,
            base_url=_client.http_options(base_url, "/v1"),
            http_client=http_client,
            **options,
        )

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> Any:
        official = super()._make_status_error(err_msg, body=body, response=response)
        return _client.status_error(_problems, response, official)

    def _process_response(self, *, response: httpx2.Response, **options: Any) -> Any:
        answer = super()._process_response(response=response, **options)
        return _client.with_proof(answer, response)


class AsyncOpenAI(openai.AsyncOpenAI):
    """The official client, whose requests go to a proven clean room alone.

    channel: a `Channel`, or the address of a clean room. With an address, `policy`, `policy_sha256`, `key`,
    `cleanroom_model`, `proxy`, `receipts` and `record` are those of a `Channel`.

    All other arguments are those of `openai.AsyncOpenAI`, but for `base_url` and `http_client`, which would lead
    elsewhere. An API key is not needed; if one is given, it stays in this process.
    """

    def __init__(
        self,
        channel: Channel | _client.Address | None = None,
        *,
        policy: _client.PathLike | None = None,
        policy_sha256: str | None = None,
        key: _client.PathLike | None = None,
        cleanroom_model: str | None = None,
        proxy: str | None = None,
        receipts: _client.PathLike | None = None,
        record: _client.PathLike | None = None,
        api_key: Any = None,
        base_url: str | httpx2.URL | None = None,
        http_client: httpx2.AsyncClient | None = None,
        **options: Any,
    ) -> None:
        files = {"policy": policy, "policy_sha256": policy_sha256, "key": key, "receipts": receipts}
        files |= {"record": record, "model": cleanroom_model, "proxy": proxy}
        self.channel = _client.channel_of(channel, files, http_client)
        if http_client is None:
            transport = AsyncTransport(self.channel, _problems)
            http_client = openai.DefaultAsyncHttpxClient(transport=transport, trust_env=False, follow_redirects=False)
            http_client._cleanroom_channel = self.channel  # type: ignore[attr-defined]
        super().__init__(
            api_key=api_key or _client.UNUSED_KEY,
            base_url=_client.http_options(base_url, "/v1"),
            http_client=http_client,
            **options,
        )

    def _make_status_error(self, err_msg: str, *, body: object, response: httpx2.Response) -> Any:
        official = super()._make_status_error(err_msg, body=body, response=response)
        return _client.status_error(_problems, response, official)

    async def _process_response(self, *, response: httpx2.Response, **options: Any) -> Any:
        answer = await super()._process_response(response=response, **options)
        return _client.with_proof(answer, response)
