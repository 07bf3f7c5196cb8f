"""The official `openai` and `anthropic` packages, unmodified, against a Cleanroom API whose model calls tools and tells what
it thinks.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

from typing import Literal

import openai
import suite
from openai import BadRequestError
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


def message(**parameters):
    return other.messages.create(**{"model": MODEL, "messages": QUESTION, "max_tokens": 400} | parameters)


def the_model_says_that_it_can():
    capabilities = client.models.list().data[0].cleanroom_capabilities
    assert capabilities["tools"] and capabilities["reasoning"], capabilities


def calls_that_must_come_are_valid():
    for seed in range(4):
        choice = chat(tools=TOOLS, tool_choice="required", temperature=1.5, seed=seed).choices[0]
        assert choice.finish_reason in ("tool_calls", "length"), choice
        whole = choice.message.tool_calls[:-1] if choice.finish_reason == "length" else choice.message.tool_calls
        for call in whole:
            KINDS[call.function.name].model_validate_json(call.function.arguments)
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids), ids


def a_named_tool_is_the_one_that_is_called():
    named = {"type": "function", "function": {"name": "Time"}}
    choice = chat(tools=TOOLS, tool_choice=named, parallel_tool_calls=False, temperature=1.5, seed=1).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["Time"], choice
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice


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


def a_call_is_answered_and_the_conversation_goes_on():
    first = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=1).choices[0].message
    call = first.tool_calls[0]
    history = QUESTION + [first.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "3"}]
    answer = chat(messages=history, tools=TOOLS, max_tokens=8)
    assert answer.usage.prompt_tokens > chat(tools=TOOLS, max_tokens=1).usage.prompt_tokens


def text_is_text_where_a_tool_may_be_called():
    choice = chat(tools=TOOLS, temperature=0).choices[0]
    assert choice.message.content and not choice.message.tool_calls and choice.finish_reason == "stop", choice
    choice = chat(tools=TOOLS, tool_choice="none", temperature=0).choices[0]
    assert choice.message.content and not choice.message.tool_calls, choice


def a_strict_schema_that_is_not_understood_is_refused():
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object", "minProperties": 1}}}
    try:
        chat(tools=[tool])
    except BadRequestError as error:
        assert (error.code, error.param) == ("invalid_schema", "tools"), error
    else:
        raise AssertionError("expected a refusal")


def anthropic_calls_are_blocks_whole_and_streamed():
    asked = {"tools": ANTHROPIC_TOOLS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    whole = message(**asked)
    block = whole.content[-1]
    assert (block.type, whole.stop_reason) == ("tool_use", "tool_use"), whole
    KINDS[block.name].model_validate(block.input)
    with other.messages.stream(model=MODEL, messages=QUESTION, max_tokens=400, **asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds and final.stop_reason == "tool_use", (kinds, final)
    KINDS[final.content[-1].name].model_validate(final.content[-1].input)
    history = QUESTION + [
        {"role": "assistant", "content": whole.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "3"}]},
    ]
    assert message(messages=history, tools=ANTHROPIC_TOOLS, max_tokens=8).usage.output_tokens > 0
    count = other.messages.count_tokens(model=MODEL, messages=history, tools=ANTHROPIC_TOOLS).input_tokens
    assert count > other.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens


def a_named_tool_of_anthropic_is_called():
    named = message(tools=ANTHROPIC_TOOLS, tool_choice={"type": "tool", "name": "Time", "disable_parallel_tool_use": True})
    assert [block.name for block in named.content] == ["Time"], named


def thoughts_are_told_apart():
    # This model never ends what it thinks.
    thought = chat(extra_body={"enable_thinking": True}, temperature=0, max_tokens=12).choices[0].message
    assert thought.content == "" and thought.reasoning_content, thought
    again = chat(reasoning_effort="high", temperature=0, max_tokens=12).choices[0].message
    assert again.reasoning_content == thought.reasoning_content, again
    streamed = chat(reasoning_effort="high", temperature=0, max_tokens=12, stream=True)
    deltas = [chunk.choices[0].delta for chunk in streamed]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thought.reasoning_content
    cold = {"max_tokens": 12, "extra_body": {"temperature": 0}}
    blocks = message(thinking={"type": "enabled", "budget_tokens": 1024}, **cold).content
    assert [block.type for block in blocks] == ["thinking"] and blocks[0].thinking, blocks
    with other.messages.stream(
        model=MODEL, messages=QUESTION, thinking={"type": "enabled", "budget_tokens": 1024}, **cold
    ) as stream:
        assert "thinking" in {event.type for event in stream}
    assert [block.type for block in message(**cold).content] == ["text"]


def responses_are_answered_whole_and_streamed():
    asked = {"model": MODEL, "input": QUESTION[0]["content"], "temperature": 0, "max_output_tokens": 400}
    whole = client.responses.create(**asked)
    assert whole.status == "completed" and whole.output_text and whole.id.startswith("resp_"), whole
    assert whole.output_text == chat(temperature=0).choices[0].message.content
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    assert final.output_text == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert client.responses.create(**asked | {"max_output_tokens": 3}).status == "incomplete"


def responses_have_a_form_call_tools_and_go_on():
    asked = {"model": MODEL, "input": QUESTION, "max_output_tokens": 400}
    assert type(client.responses.parse(text_format=Weather, **asked).output_parsed) is Weather
    schema = Time.model_json_schema() | {"additionalProperties": False}
    tool = {"type": "function", "name": "Time", "description": "d", "parameters": schema, "strict": True}
    tools = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    called = client.responses.create(**asked, **tools)
    call = called.output[-1]
    assert call.type == "function_call" and call.name == "Time", called
    Time.model_validate_json(call.arguments)
    with client.responses.stream(**asked, **tools) as stream:
        assert "response.function_call_arguments.delta" in {event.type for event in stream}
    history = QUESTION + called.output + [{"type": "function_call_output", "call_id": call.call_id, "output": "3"}]
    answer = client.responses.create(model=MODEL, input=history, tools=[tool], max_output_tokens=8)
    assert answer.usage.input_tokens > called.usage.input_tokens
    thought = client.responses.create(**asked | {"max_output_tokens": 12, "temperature": 0}, reasoning={"effort": "high"})
    assert [item.type for item in thought.output] == ["reasoning"] and thought.output[0].content[0].text, thought


def what_would_need_a_memory_here_is_refused():
    for name, value in {"previous_response_id": "resp_1", "store": True, "background": True}.items():
        try:
            client.responses.create(model=MODEL, input="x", **{name: value})
        except BadRequestError as error:
            assert (error.code, error.param) == ("unsupported_parameter", name), error
        else:
            raise AssertionError(f"{name} was accepted")


CASES = [
    responses_are_answered_whole_and_streamed,
    responses_have_a_form_call_tools_and_go_on,
    what_would_need_a_memory_here_is_refused,
    the_model_says_that_it_can,
    calls_that_must_come_are_valid,
    a_named_tool_is_the_one_that_is_called,
    helpers_parse_calls_whole_and_streamed,
    a_call_is_answered_and_the_conversation_goes_on,
    text_is_text_where_a_tool_may_be_called,
    a_strict_schema_that_is_not_understood_is_refused,
    anthropic_calls_are_blocks_whole_and_streamed,
    a_named_tool_of_anthropic_is_called,
    thoughts_are_told_apart,
]

suite.run(openai, CASES)
