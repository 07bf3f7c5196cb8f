"""The official clients at a proxy that others can reach, where its token is the API key, and at its Unix socket.

CLEANROOM_BASE_URL (with `/v1`) leads to the one, CLEANROOM_SOCKET to the other, and CLEANROOM_TOKEN is the token. Prints one
line for each case and exits with 1 if one fails.
"""

import asyncio
import os

import anthropic
import httpx2
import openai
import suite

URL = os.environ["CLEANROOM_BASE_URL"]
TOKEN = os.environ["CLEANROOM_TOKEN"]
SOCKET = os.environ["CLEANROOM_SOCKET"]
QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "What is attestation?"}], "max_tokens": 8}


def refused(kind, request):
    try:
        request()
    except kind as error:
        assert error.body.get("error", error.body)["code"] == "wrong-token", error.body
        assert error.response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in str(error)
        return error
    raise AssertionError(f"expected {kind.__name__}")


def the_token_is_the_api_key_of_both():
    client = openai.OpenAI(base_url=URL, api_key=TOKEN, timeout=60.0)
    assert client.chat.completions.create(**QUESTION).choices[0].finish_reason == "length"
    assert len(list(client.chat.completions.create(stream=True, **QUESTION))) > 1
    client = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), api_key=TOKEN, timeout=60.0)
    assert client.messages.create(**QUESTION).stop_reason == "max_tokens"
    client = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), auth_token=TOKEN, api_key=None, timeout=60.0)
    assert client.messages.create(**QUESTION).stop_reason == "max_tokens"


def any_other_key_is_refused_in_words_even_after_a_long_request():
    # Nobody is asked again and again.
    long = QUESTION | {"messages": [{"role": "user", "content": "x" * (6 << 20)}]}
    for question in (QUESTION, long):
        client = openai.OpenAI(base_url=URL, api_key=TOKEN + "x", timeout=60.0)
        refused(openai.AuthenticationError, lambda: client.chat.completions.create(**question))
        client = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), api_key=TOKEN[:-1], timeout=60.0)
        error = refused(anthropic.AuthenticationError, lambda: client.messages.create(**question))
        assert error.body["type"] == "error", error.body


def a_request_that_is_too_long_is_answered_and_not_cut_off():
    client = openai.OpenAI(base_url=URL, api_key=TOKEN, timeout=60.0, max_retries=0)
    try:
        client.chat.completions.create(**QUESTION | {"messages": [{"role": "user", "content": "x" * (20 << 20)}]})
    except openai.APIStatusError as error:
        assert (error.status_code, error.code) == (413, "bad-body"), error
    else:
        raise AssertionError("it was sent")


def a_unix_socket_needs_no_key():
    transport = httpx2.HTTPTransport(uds=SOCKET)
    client = openai.OpenAI(
        base_url="http://localhost/v1", api_key="unused", http_client=httpx2.Client(transport=transport)
    )
    assert client.chat.completions.create(**QUESTION).choices[0].finish_reason == "length"
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=SOCKET)) as plain:
        assert plain.get("http://anything/v1/models").json()["data"][0]["id"] == "demo"

    async def run():
        http = httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=SOCKET))
        async with anthropic.AsyncAnthropic(base_url="http://localhost", api_key="unused", http_client=http) as client:
            async with client.messages.stream(**QUESTION) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(run())


CASES = [
    the_token_is_the_api_key_of_both,
    any_other_key_is_refused_in_words_even_after_a_long_request,
    a_request_that_is_too_long_is_answered_and_not_cut_off,
    a_unix_socket_needs_no_key,
]

suite.run(openai, CASES)
