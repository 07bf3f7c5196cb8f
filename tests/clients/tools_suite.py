"""The official `openai` and `anthropic` packages, unmodified, against a Cleanroom API whose model calls tools and
tells what it thinks: the shared cases of tools and of agents, and the packages' helpers.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

from typing import Literal

import openai
import suite
from cases import cases
from pydantic import BaseModel, Field
from suite import Anthropic, OpenAI

client = OpenAI(**suite.OPENAI)
other = Anthropic(**suite.ANTHROPIC)
MODEL = client.models.list().data[0].id
QUESTION = [{"role": "user", "content": "What is attestation?"}]


class Weather(BaseModel):
    """Tells the weather."""

    city: str = Field(max_length=4)
    unit: Literal["C", "F"]


class Time(BaseModel):
    """Tells the time."""

    zone: Literal["UTC", "CET"]


KINDS = {"Weather": Weather, "Time": Time}
TOOLS = [openai.pydantic_function_tool(kind) for kind in KINDS.values()]
ANTHROPIC_TOOLS = [
    {"name": name, "description": kind.__doc__, "input_schema": kind.model_json_schema()} for name, kind in KINDS.items()
]


def chat(**parameters):
    return client.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "max_tokens": 400} | parameters)


def calls_that_must_come_are_valid():
    for seed in range(4):
        choice = chat(tools=TOOLS, tool_choice="required", temperature=1.5, seed=seed).choices[0]
        assert choice.finish_reason in ("tool_calls", "length"), choice
        whole = choice.message.tool_calls[:-1] if choice.finish_reason == "length" else choice.message.tool_calls
        for call in whole:
            KINDS[call.function.name].model_validate_json(call.function.arguments)
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids), ids


def helpers_parse_calls_whole_and_streamed():
    asked = {"model": MODEL, "messages": QUESTION, "tools": TOOLS, "tool_choice": "required", "max_tokens": 400}
    asked |= {"parallel_tool_calls": False, "seed": 3}
    parsed = client.chat.completions.parse(**asked).choices[0].message.tool_calls[0].function
    assert type(parsed.parsed_arguments) is KINDS[parsed.name], parsed
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0].message.tool_calls[0].function
    assert "tool_calls.function.arguments.delta" in kinds, kinds
    assert (final.name, final.arguments) == (parsed.name, parsed.arguments), final


def the_stream_helper_of_anthropic_understands_calls_and_thoughts():
    asked = {"model": MODEL, "messages": QUESTION, "max_tokens": 400, "tools": ANTHROPIC_TOOLS}
    with other.messages.stream(**asked, tool_choice={"type": "any", "disable_parallel_tool_use": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds and final.stop_reason == "tool_use", (kinds, final)
    KINDS[final.content[-1].name].model_validate(final.content[-1].input)
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "extra_body": {"temperature": 0}}
    with other.messages.stream(model=MODEL, messages=QUESTION, max_tokens=12, **thinking) as stream:
        assert "thinking" in {event.type for event in stream}


def the_helpers_of_responses_parse_and_stream():
    asked = {"model": MODEL, "input": QUESTION, "max_output_tokens": 400}
    assert type(client.responses.parse(text_format=Weather, **asked).output_parsed) is Weather
    whole = client.responses.create(temperature=0, **asked)
    with client.responses.stream(temperature=0, **asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    assert final.output_text == whole.output_text and final.output_text, final


CASES = [
    calls_that_must_come_are_valid,
    helpers_parse_calls_whole_and_streamed,
    the_stream_helper_of_anthropic_understands_calls_and_thoughts,
    the_helpers_of_responses_parse_and_stream,
]

suite.run(openai, cases("tools") + cases("agents") + CASES)
