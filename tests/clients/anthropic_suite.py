"""The official `anthropic` package, unmodified, against a Cleanroom API.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import anthropic
import suite
from anthropic import APIStatusError, BadRequestError, NotFoundError, RateLimitError
from pydantic import BaseModel
from suite import Anthropic, AsyncAnthropic

client = Anthropic(**suite.ANTHROPIC)
once = client.with_options(max_retries=0)
MODEL = client.models.list().data[0].id

QUESTION = [{"role": "user", "content": "What is attestation?"}]
SECRET = "Zwetschgenkuchen"


def ask(via=client, extra_body=None, **parameters):
    # The package has no names for the parameters of sampling any more; the API still has.
    defaults = {"model": MODEL, "messages": QUESTION, "max_tokens": 120}
    return via.messages.create(**defaults | parameters, extra_body={"temperature": 0} | (extra_body or {}))


def refused(kind, request, code, param):
    """Expects a typed error that repeats nothing of the request."""
    try:
        request()
    except kind as error:
        assert type(error) is kind, type(error)
        body = error.body
        assert body["type"] == "error", body
        assert (body["error"]["code"], body["error"]["param"]) == (code, param), body
        assert SECRET not in str(error)
        return body["error"]["type"]
    raise AssertionError(f"expected {kind.__name__}, got an answer")


def models_are_listed():
    page = client.models.list()
    assert [model.type for model in page] == ["model"] and page.has_more is False, page
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.display_name and model.created_at.year >= 2020, model


def query_parameters_are_ignored_as_in_the_original():
    assert [model.id for model in client.models.list(limit=5)] == [MODEL]
    message = client.beta.messages.create(model=MODEL, max_tokens=9, messages=QUESTION)
    assert message.content[0].text, message


def an_unknown_model_is_not_found():
    kind = refused(NotFoundError, lambda: client.models.retrieve("claude"), "model_not_found", "model")
    assert kind == "not_found_error", kind
    refused(NotFoundError, lambda: ask(model=SECRET), "model_not_found", "model")


def a_message_is_answered_whole():
    message = ask()
    assert message.type == "message" and message.role == "assistant" and message.model == MODEL
    assert message.id.startswith("msg_") and message._request_id == message.id, message._request_id
    assert [block.type for block in message.content] == ["text"] and message.content[0].text
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None), message
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0


def a_message_is_streamed_alike():
    events = list(ask(stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"], kinds
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"], kinds
    assert set(kinds[2:-3]) == {"content_block_delta"} and len(kinds) > 8, kinds
    whole = ask()
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == whole.content[0].text
    assert events[0].message.usage.input_tokens == whole.usage.input_tokens
    assert events[-2].usage.output_tokens == whole.usage.output_tokens
    assert events[-2].delta.stop_reason == "end_turn"


def the_stream_helper_understands_the_stream():
    with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=120, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = ask()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens


def both_apis_give_the_same_answer():
    other = suite.OpenAI(**suite.OPENAI)
    answer = other.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=120)
    assert answer.choices[0].message.content == ask().content[0].text


def a_conversation_goes_on_with_the_answer_sent_back():
    first = ask()
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    history = QUESTION + [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    message = ask(system=system, messages=history)
    assert prompt_tokens(message) > prompt_tokens(first) + first.usage.output_tokens
    again = ask(system="Be brief.", messages=history)
    assert (prompt_tokens(again), again.usage.output_tokens) == (prompt_tokens(message), message.usage.output_tokens)


def prompt_tokens(message):
    """Those that were read for this answer, and those that had been read for an earlier one."""
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def tokens_are_limited():
    message = ask(max_tokens=3)
    assert message.usage.output_tokens == 3 and message.stop_reason == "max_tokens"


def tokens_are_counted():
    count = client.messages.count_tokens(model=MODEL, messages=QUESTION, system="Be brief.").input_tokens
    assert count == ask(system="Be brief.").usage.input_tokens


def a_stop_sequence_ends_the_answer_and_is_named():
    full = ask().content[0].text
    stop = full.split(" ")[4]
    message = ask(stop_sequences=["never there", stop])
    assert message.content[0].text == full.split(stop)[0]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop), message
    *_, delta, _ = ask(stop_sequences=[stop], stream=True)
    assert (delta.delta.stop_reason, delta.delta.stop_sequence) == ("stop_sequence", stop), delta


class Check(BaseModel):
    image: Literal["debug", "release"]
    valid: bool
    level: Literal["low", "high"]


def a_message_has_the_form_of_a_model():
    message = client.messages.parse(model=MODEL, messages=QUESTION, max_tokens=200, output_format=Check)
    assert message.stop_reason == "end_turn" and type(message.parsed_output) is Check, message
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    text = "".join(
        event.delta.text for event in ask(output_config=config, stream=True) if event.type == "content_block_delta"
    )
    assert list(json.loads(text)) == ["a"], text
    count = client.messages.count_tokens(model=MODEL, messages=QUESTION, output_config=config).input_tokens
    assert count == ask().usage.input_tokens
    bad = {"format": {"type": "json_schema", "schema": {"type": "string", "pattern": f"(?={SECRET})"}}}
    refused(BadRequestError, lambda: ask(output_config=bad), "invalid_schema", "output_config.format.schema")


def parameters_that_change_nothing_are_accepted():
    ask(extra_body={"top_p": 1}, tools=[], thinking={"type": "disabled"}, service_tier="auto", metadata={"user_id": "someone"})


def what_is_not_supported_is_refused_by_name():
    # This model's template has no form for calls, and no thoughts.
    unsupported = {
        "tools": [{"name": "f", "description": SECRET, "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    for name, value in unsupported.items():
        kind = refused(BadRequestError, lambda: ask(**{name: value}), "unsupported_parameter", name)
        assert kind == "invalid_request_error", kind
    effort = {"effort": "high"}
    refused(BadRequestError, lambda: ask(output_config=effort), "unsupported_parameter", "output_config.effort")
    refused(BadRequestError, lambda: ask(extra_body={"min_p": 0.5}), "unknown_parameter", "min_p")
    refused(BadRequestError, lambda: ask(extra_body={"n": 2}), "unknown_parameter", "n")
    image = {"type": "image", "source": {"type": "url", "url": f"https://example.com/{SECRET}"}}
    message = {"role": "user", "content": [image]}
    refused(BadRequestError, lambda: ask(messages=[message]), "invalid_value", "messages[0].content[0].type")


def wrong_values_are_refused_with_their_place():
    refused(BadRequestError, lambda: ask(extra_body={"temperature": 1.5}), "invalid_value", "temperature")
    refused(BadRequestError, lambda: ask(max_tokens=0), "invalid_value", "max_tokens")
    begun = QUESTION + [{"role": "assistant", "content": SECRET}]
    refused(BadRequestError, lambda: ask(messages=begun), "invalid_value", "messages[1]")
    long = [{"role": "user", "content": f"{SECRET} " * 20_000}]
    refused(BadRequestError, lambda: ask(messages=long), "context_length_exceeded", "messages")


def closed_streams_give_their_places_back():
    for _ in range(60):
        with ask(stream=True) as stream:
            next(iter(stream))
    assert ask().stop_reason == "end_turn"


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
    models_are_listed,
    query_parameters_are_ignored_as_in_the_original,
    an_unknown_model_is_not_found,
    a_message_is_answered_whole,
    a_message_is_streamed_alike,
    the_stream_helper_understands_the_stream,
    both_apis_give_the_same_answer,
    a_conversation_goes_on_with_the_answer_sent_back,
    tokens_are_limited,
    tokens_are_counted,
    a_stop_sequence_ends_the_answer_and_is_named,
    a_message_has_the_form_of_a_model,
    parameters_that_change_nothing_are_accepted,
    what_is_not_supported_is_refused_by_name,
    wrong_values_are_refused_with_their_place,
    closed_streams_give_their_places_back,
    eight_async_streams_at_once_get_what_one_gets_alone,
    too_many_at_once_are_told_when_to_come_back,
]

suite.run(anthropic, CASES)
