"""The official `openai` package, unmodified, against a Cleanroom API.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, Optional

import openai
import suite
from openai import BadRequestError, NotFoundError, RateLimitError
from pydantic import BaseModel, Field
from suite import AsyncOpenAI, OpenAI

client = OpenAI(**suite.OPENAI)
once = client.with_options(max_retries=0)
MODEL = client.models.list().data[0].id

QUESTION = [{"role": "user", "content": "What is attestation?"}]
SECRET = "Zwetschgenkuchen"


def chat(via=client, **parameters):
    return via.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0} | parameters)


def complete(via=client, **parameters):
    return via.completions.create(**{"model": MODEL, "prompt": "Once upon a time", "temperature": 0} | parameters)


def joined(stream):
    """The text and the finish reason of a stream from either endpoint."""
    text, reasons = "", []
    for chunk in stream:
        for choice in chunk.choices:
            text += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert len(reasons) == 1, reasons
    return text, reasons[0]


def refused(kind, request, code, param):
    """Expects a typed error that repeats nothing of the request."""
    try:
        request()
    except kind as error:
        assert type(error) is kind, type(error)
        assert (error.code, error.param) == (code, param), (error.code, error.param, error.message)
        assert SECRET not in str(error)
        return error
    raise AssertionError(f"expected {kind.__name__}, got an answer")


# ---- Models ----


def models_are_listed():
    models = client.models.list().data
    assert [model.object for model in models] == ["model"], models


def the_model_says_what_it_can_be_asked_for():
    capabilities = client.models.list().data[0].cleanroom_capabilities
    assert capabilities["chat"] is True and capabilities["embeddings"] is False, capabilities


def several_prompts_are_continued_at_once():
    answer = complete(prompt=["Once upon a time", "The platform"], max_tokens=6)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text == complete(max_tokens=6).choices[0].text
    tokens = complete(prompt=[[300, 301], [302]], max_tokens=2)
    assert tokens.usage.prompt_tokens == 3, tokens.usage


def query_parameters_and_no_limit_are_accepted_as_in_the_original():
    assert chat(extra_query={"a": "b"}).choices[0].message.content == chat().choices[0].message.content
    assert chat(max_tokens=-1).choices[0].finish_reason == "stop"


def a_model_is_retrieved():
    model = client.models.retrieve(MODEL)
    assert model.id == MODEL and model.owned_by and model.created > 0, model


def an_unknown_model_is_not_found():
    refused(NotFoundError, lambda: client.models.retrieve("gpt-5"), "model_not_found", "model")
    refused(NotFoundError, lambda: chat(model=SECRET), "model_not_found", "model")
    refused(NotFoundError, lambda: complete(model=SECRET), "model_not_found", "model")


# ---- Chat ----


def a_chat_is_answered_whole():
    answer = chat()
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "stop", choice
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def a_chat_is_streamed_alike():
    chunks = list(chat(stream=True))
    assert len(chunks) > 5 and len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks)
    assert joined(chunks) == (chat().choices[0].message.content, "stop")


def usage_is_streamed_when_asked_for():
    *chunks, last = chat(stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == chat().usage, last
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)


def padding_can_be_turned_off():
    def padded(stream):
        return any(getattr(chunk, "obfuscation", None) for chunk in stream)

    assert padded(chat(stream=True))
    assert not padded(chat(stream=True, stream_options={"include_obfuscation": False}))


def the_stream_helper_understands_the_stream():
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, temperature=0) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == chat().choices[0].message.content


def a_conversation_goes_on_with_the_answer_sent_back():
    answer = chat().choices[0].message
    history = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}]
    history += QUESTION + [answer.model_dump(), {"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    assert chat(messages=history).usage.prompt_tokens > chat().usage.prompt_tokens + chat().usage.completion_tokens


# ---- Parameters ----


def a_text_is_continued_whole_and_streamed():
    answer = complete()
    assert answer.object == "text_completion" and answer.usage.completion_tokens == 16, answer.usage
    assert answer.choices[0].finish_reason == "length"
    assert joined(complete(stream=True)) == (answer.choices[0].text, "length")
    *_, last = complete(stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == answer.usage


def tokens_are_limited():
    for answer in (chat(max_tokens=3), chat(max_completion_tokens=3), complete(max_tokens=3)):
        assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def the_same_seed_gives_the_same_answer():
    def ask(seed):
        return complete(temperature=1.8, top_p=0.95, seed=seed, max_tokens=24).choices[0].text

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def a_stop_sequence_ends_the_answer():
    full = chat().choices[0].message.content
    stop = full.split(" ")[4]
    expected = full.split(stop)[0]
    answer = chat(stop=stop).choices[0]
    assert (answer.message.content, answer.finish_reason) == (expected, "stop"), answer
    assert joined(chat(stop=["never there", stop], stream=True)) == (expected, "stop")


def parameters_that_change_nothing_are_accepted():
    chat(n=1, presence_penalty=0, frequency_penalty=0, tools=[], logprobs=False, logit_bias={}, user="someone")
    chat(response_format={"type": "text"}, top_p=1, stop=None, seed=None)


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
    schema = {"type": "object", "properties": {"b": {"type": "null"}, "a": {"type": "boolean"}}, "required": ["a", "b"]}
    definition = {"name": "pair", "schema": schema}
    text, reason = joined(chat(response_format={"type": "json_schema", "json_schema": definition}, stream=True))
    assert reason == "stop" and list(json.loads(text)) == ["b", "a"], text
    begun = chat(response_format={"type": "json_object"}, max_tokens=8).choices[0].message.content
    assert begun.startswith("{"), begun


def tokens_come_with_probabilities():
    choice = chat(logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob == token.logprob <= 0, token
    streamed = [
        token
        for chunk in chat(logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == tokens
    # What the model thinks does not depend on how it is asked to choose.
    hot = complete(temperature=2, seed=1, logprobs=5, max_tokens=1).choices[0].logprobs
    cold = complete(logprobs=5, max_tokens=1).choices[0].logprobs
    likeliest = max(cold.top_logprobs[0], key=cold.top_logprobs[0].get)
    assert hot.top_logprobs[0][likeliest] == cold.token_logprobs[0], (hot, cold)
    choice = complete(logprobs=0).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text and choice.logprobs.text_offset[0] == 0
    for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens):
        assert choice.text[offset:].startswith(token), choice
    refused(BadRequestError, lambda: chat(top_logprobs=2), "invalid_value", "top_logprobs")


def a_request_gets_several_choices():
    hot = {"temperature": 1.8, "seed": 3, "max_tokens": 12, "n": 3}
    answer = complete(**hot)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3, texts
    assert 12 < answer.usage.completion_tokens <= 36 and answer.usage.prompt_tokens == complete().usage.prompt_tokens
    streamed = ["", "", ""]
    for chunk in complete(stream=True, **hot):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts
    with client.chat.completions.stream(model=MODEL, messages=QUESTION, n=2, temperature=0) as stream:
        list(stream)
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [chat().choices[0].message.content] * 2
    refused(BadRequestError, lambda: chat(n=99), "invalid_value", "n")
    refused(BadRequestError, lambda: complete(best_of=2), "unsupported_parameter", "best_of")


def a_schema_that_is_not_understood_is_refused():
    def ask(schema, **more):
        definition = {"name": "x", "schema": schema, "strict": True}
        return chat(response_format={"type": "json_schema", "json_schema": definition}, **more)

    param = "response_format.json_schema.schema"
    error = refused(
        BadRequestError, lambda: ask({"type": "string", "pattern": f"(?={SECRET})"}), "invalid_schema", param
    )
    assert "pattern" in str(error), error
    refused(BadRequestError, lambda: ask({"const": SECRET * 5000}), "invalid_value", param)
    refused(BadRequestError, lambda: ask({"type": "string"}, stop=["x"]), "invalid_value", "stop")


def what_tokens_are_chosen_from_can_be_limited():
    full = chat().choices[0].message.content
    # The most likely token alone is what no temperature and no seed change.
    for seed in range(3):
        assert chat(temperature=2, seed=seed, extra_body={"top_k": 1}).choices[0].message.content == full
        assert chat(temperature=2, seed=seed, extra_body={"min_p": 1}).choices[0].message.content == full
    # The same draws, from other scores once a token has come again.
    drawn = {"temperature": 2, "seed": 1, "max_tokens": 100}
    penalised = complete(presence_penalty=2, frequency_penalty=2, **drawn).choices[0].text
    assert penalised != complete(**drawn).choices[0].text, penalised
    # A token far ahead of all others is all that comes.
    text = complete(max_tokens=5, logit_bias={"300": 100}).choices[0].text
    assert text and text == text[: len(text) // 5] * 5, text
    refused(BadRequestError, lambda: chat(logit_bias={"4000000000": 1}), "invalid_value", "logit_bias")
    refused(BadRequestError, lambda: chat(logit_bias={SECRET: 1}), "invalid_value", "logit_bias")


# ---- Refusals ----


def what_is_not_supported_is_refused_by_name():
    # This model's template has no form for calls, and no thoughts.
    tool = {"type": "function", "function": {"name": "f", "description": SECRET, "parameters": {}}}
    unsupported = {
        "tools": [tool],
        "metadata": {"a": SECRET},
        "reasoning_effort": "high",
    }
    for name, value in unsupported.items():
        refused(BadRequestError, lambda: chat(**{name: value}), "unsupported_parameter", name)
    refused(BadRequestError, lambda: complete(echo=True), "unsupported_parameter", "echo")
    refused(BadRequestError, lambda: chat(extra_body={"top_a": 5}), "unknown_parameter", "top_a")


def wrong_values_are_refused_with_their_place():
    refused(BadRequestError, lambda: chat(temperature=3), "invalid_value", "temperature")
    refused(BadRequestError, lambda: chat(temperature=SECRET), "invalid_value", "temperature")
    refused(BadRequestError, lambda: chat(messages=[]), "invalid_value", "messages")
    message = {"role": "narrator", "content": SECRET}
    refused(BadRequestError, lambda: chat(messages=[message]), "invalid_value", "messages[0].role")
    refused(BadRequestError, lambda: complete(prompt=[SECRET] * 9), "invalid_value", "prompt")
    refused(BadRequestError, lambda: chat(stop=["a"] * 5), "invalid_value", "stop")


def a_prompt_beyond_the_context_is_refused():
    long = [{"role": "user", "content": f"{SECRET} " * 20_000}]
    refused(BadRequestError, lambda: chat(messages=long), "context_length_exceeded", "messages")


def a_body_beyond_the_limit_is_refused():
    try:
        complete(once, prompt="x" * 8_000_000)
    except openai.APIStatusError as error:
        assert (error.status_code, error.code) == (413, "body_too_large"), error
    except openai.APIConnectionError:
        pass  # The server need not read on, and the client may notice that before the answer.
    else:
        raise AssertionError("expected a refusal")


def other_endpoints_do_not_exist():
    refused(NotFoundError, lambda: client.moderations.create(model=MODEL, input=SECRET), "unknown_url", None)


def a_model_that_is_not_made_for_embeddings_gives_none():
    refused(BadRequestError, lambda: client.embeddings.create(model=MODEL, input=SECRET), "no_embeddings", "model")


# ---- Many at once ----

STORIES = [{"prompt": "A story about", "temperature": 1, "seed": seed, "max_tokens": 40} for seed in range(8)]


def eight_threads_at_once_get_what_each_would_get_alone():
    alone = [complete(**story).choices[0].text for story in STORIES]
    with ThreadPoolExecutor(8) as pool:
        whole = list(pool.map(lambda story: complete(**story).choices[0].text, STORIES))
        streamed = list(pool.map(lambda story: joined(complete(stream=True, **story))[0], STORIES))
    assert whole == alone and streamed == alone


def eight_async_streams_at_once_get_what_each_would_get_alone():
    async def story(asynchronous, parameters):
        stream = await asynchronous.completions.create(model=MODEL, stream=True, **parameters)
        return "".join([choice.text async for chunk in stream for choice in chunk.choices])

    async def stories():
        async with AsyncOpenAI(**suite.OPENAI) as asynchronous:
            return await asyncio.gather(*(story(asynchronous, parameters) for parameters in STORIES))

    assert asyncio.run(stories()) == [complete(**parameters).choices[0].text for parameters in STORIES]


def closed_streams_give_their_places_back():
    for _ in range(60):
        with chat(stream=True) as stream:
            next(iter(stream))
    assert chat(stream=False).choices[0].finish_reason == "stop"


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
    models_are_listed,
    the_model_says_what_it_can_be_asked_for,
    several_prompts_are_continued_at_once,
    query_parameters_and_no_limit_are_accepted_as_in_the_original,
    a_model_is_retrieved,
    an_unknown_model_is_not_found,
    a_chat_is_answered_whole,
    a_chat_is_streamed_alike,
    usage_is_streamed_when_asked_for,
    padding_can_be_turned_off,
    the_stream_helper_understands_the_stream,
    a_conversation_goes_on_with_the_answer_sent_back,
    a_text_is_continued_whole_and_streamed,
    tokens_are_limited,
    the_same_seed_gives_the_same_answer,
    a_stop_sequence_ends_the_answer,
    parameters_that_change_nothing_are_accepted,
    an_answer_has_the_form_of_a_model,
    a_schema_that_is_not_understood_is_refused,
    tokens_come_with_probabilities,
    a_request_gets_several_choices,
    what_tokens_are_chosen_from_can_be_limited,
    what_is_not_supported_is_refused_by_name,
    wrong_values_are_refused_with_their_place,
    a_prompt_beyond_the_context_is_refused,
    a_body_beyond_the_limit_is_refused,
    other_endpoints_do_not_exist,
    a_model_that_is_not_made_for_embeddings_gives_none,
    eight_threads_at_once_get_what_each_would_get_alone,
    eight_async_streams_at_once_get_what_each_would_get_alone,
    closed_streams_give_their_places_back,
    abandoned_async_tasks_give_their_places_back,
    too_many_at_once_are_told_when_to_come_back,
]

suite.run(openai, CASES)
