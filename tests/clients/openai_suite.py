"""The official `openai` package, unmodified, against a Cleanroom API: the shared cases, and its own.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, Optional

import openai
import suite
from cases import cases
from openai import RateLimitError
from pydantic import BaseModel, Field
from suite import AsyncOpenAI, OpenAI

client = OpenAI(**suite.OPENAI)
once = client.with_options(max_retries=0)
MODEL = client.models.list().data[0].id

QUESTION = [{"role": "user", "content": "What is attestation?"}]


def chat(via=client, **parameters):
    return via.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0} | parameters)


def complete(via=client, **parameters):
    return via.completions.create(**{"model": MODEL, "prompt": "Once upon a time", "temperature": 0} | parameters)


def the_stream_helper_understands_the_stream():
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == chat().choices[0].message.content
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, n=2, temperature=0) as stream:
        list(stream)
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [chat().choices[0].message.content] * 2


class Check(BaseModel):
    image: Annotated[str, Field(max_length=12)]
    valid: bool
    level: Literal["low", "high"]
    count: Annotated[int, Field(ge=1, le=9)]
    next: Optional["Check"]


def an_answer_has_the_form_of_a_model():
    for seed in range(6):
        answer = client.chat.completions.parse(
            model=MODEL, messages=QUESTION, response_format=Check, temperature=1.5, seed=seed, max_tokens=400
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "stop" and type(choice.message.parsed) is Check, choice


def tokens_have_their_place_in_the_text():
    choice = complete(logprobs=0).choices[0]
    for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True):
        assert choice.text[offset:].startswith(token), choice


def a_body_beyond_the_limit_is_refused():
    try:
        complete(once, prompt="x" * 8_000_000)
    except openai.APIStatusError as error:
        assert (error.status_code, error.code) == (413, "body_too_large"), error
    except openai.APIConnectionError:
        pass  # The server need not read on, and the client may notice that before the answer.
    else:
        raise AssertionError("expected a refusal")


STORIES = [{"prompt": "A story about", "temperature": 1, "seed": seed, "max_tokens": 40} for seed in range(8)]


def eight_async_streams_at_once_get_what_each_would_get_alone():
    async def story(asynchronous, parameters):
        stream = await asynchronous.completions.create(model=MODEL, stream=True, **parameters)
        return "".join([choice.text async for chunk in stream for choice in chunk.choices])

    async def stories():
        async with AsyncOpenAI(**suite.OPENAI) as asynchronous:
            return await asyncio.gather(*(story(asynchronous, parameters) for parameters in STORIES))

    assert asyncio.run(stories()) == [complete(**parameters).choices[0].text for parameters in STORIES]


def abandoned_async_tasks_give_their_places_back():
    async def abandon():
        async with AsyncOpenAI(**suite.OPENAI) as asynchronous:
            for _ in range(20):
                request = asynchronous.chat.completions.create(model=MODEL, messages=QUESTION)
                task = asyncio.create_task(request)
                await asyncio.sleep(0.005)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(abandon())
    assert chat().choices[0].finish_reason == "stop"


def too_many_at_once_are_told_when_to_come_back():
    def ask(_):
        try:
            return complete(once, max_tokens=200).choices[0].finish_reason
        except RateLimitError as error:
            return error

    refusals = []
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(64) as pool:
        while not refusals and time.monotonic() < deadline:
            outcomes = list(pool.map(ask, range(64)))
            refusals = [outcome for outcome in outcomes if isinstance(outcome, RateLimitError)]
            assert all(outcome in ("stop", "length") for outcome in outcomes if outcome not in refusals), outcomes
            assert len(refusals) < len(outcomes), "some are served"
    assert refusals, "nobody was refused"
    for error in refusals:
        assert error.code == "rate_limit_exceeded" and error.status_code == 429, error
        assert int(error.response.headers["retry-after"]) >= 1
    # The package's own retries honour the header, so that patient clients are all served in the end.
    assert chat().choices[0].finish_reason == "stop"


CASES = [
    the_stream_helper_understands_the_stream,
    an_answer_has_the_form_of_a_model,
    tokens_have_their_place_in_the_text,
    a_body_beyond_the_limit_is_refused,
    eight_async_streams_at_once_get_what_each_would_get_alone,
    abandoned_async_tasks_give_their_places_back,
    too_many_at_once_are_told_when_to_come_back,
]

suite.run(openai, cases("openai") + CASES)
