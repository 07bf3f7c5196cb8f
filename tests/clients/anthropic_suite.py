"""The official `anthropic` package, unmodified, against a Cleanroom API: the shared cases, and its own.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import anthropic
import suite
from anthropic import APIStatusError, RateLimitError
from cases import cases
from pydantic import BaseModel
from suite import Anthropic, AsyncAnthropic

client = Anthropic(**suite.ANTHROPIC)
once = client.with_options(max_retries=0)
MODEL = client.models.list().data[0].id

QUESTION = [{"role": "user", "content": "What is attestation?"}]


def ask(via=client, extra_body=None, **parameters):
    # The package has no names for the parameters of sampling any more; the API still has.
    defaults = {"model": MODEL, "messages": QUESTION, "max_tokens": 120}
    return via.messages.create(**defaults | parameters, extra_body={"temperature": 0} | (extra_body or {}))


def the_stream_helper_understands_the_stream():
    with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=120, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = ask()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens


class Check(BaseModel):
    image: Literal["debug", "release"]
    valid: bool
    level: Literal["low", "high"]


def a_message_has_the_form_of_a_model():
    message = client.messages.parse(model=MODEL, messages=QUESTION, max_tokens=200, output_format=Check)
    assert message.stop_reason == "end_turn" and type(message.parsed_output) is Check, message


def eight_async_streams_at_once_get_what_one_gets_alone():
    async def text(asynchronous):
        async with asynchronous.messages.stream(
            model=MODEL, messages=QUESTION, max_tokens=120, extra_body={"temperature": 0}
        ) as stream:
            return "".join([piece async for piece in stream.text_stream])

    async def texts():
        async with AsyncAnthropic(**suite.ANTHROPIC) as asynchronous:
            return await asyncio.gather(*(text(asynchronous) for _ in range(8)))

    assert set(asyncio.run(texts())) == {ask().content[0].text}


def too_many_at_once_are_told_when_to_come_back():
    def attempt(_):
        try:
            return ask(once).stop_reason
        except RateLimitError as error:
            return error

    refusals = []
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(64) as pool:
        while not refusals and time.monotonic() < deadline:
            refusals = [outcome for outcome in pool.map(attempt, range(64)) if isinstance(outcome, APIStatusError)]
    assert refusals, "nobody was refused"
    for error in refusals:
        assert error.body["error"]["type"] == "rate_limit_error", error
        assert int(error.response.headers["retry-after"]) >= 1


CASES = [
    the_stream_helper_understands_the_stream,
    a_message_has_the_form_of_a_model,
    eight_async_streams_at_once_get_what_one_gets_alone,
    too_many_at_once_are_told_when_to_come_back,
]

suite.run(anthropic, cases("anthropic") + CASES)
