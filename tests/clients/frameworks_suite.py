"""Frameworks, unmodified and with their defaults, against an API whose model calls tools.

`suite` says how the API is reached. With a base URL, each framework makes an official client of its own. In process, it gets
`cleanroom.OpenAI` or `cleanroom.AsyncOpenAI`. Prints one line for each case and exits with 1 if one fails.
"""

import asyncio
import os
from typing import Literal

# None of them has anything to tell anybody.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}

import instructor
import litellm
import openai
import suite
from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import BaseOpenAIChatCompletionClient, OpenAIChatCompletionClient
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = os.environ.get("CLEANROOM_BASE_URL")
KEY = "not looked at"
QUESTION = "What is attestation?"
client = suite.OpenAI(**suite.OPENAI)
MODEL = client.models.list().data[0].id


def chat_openai():
    if URL:
        return ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY)
    both = {"root_client": client, "root_async_client": suite.AsyncOpenAI(**suite.OPENAI)}
    resources = {"client": client.chat.completions, "async_client": both["root_async_client"].chat.completions}
    return ChatOpenAI(model=MODEL, api_key=KEY, **both, **resources)


def openai_provider():
    if URL:
        return OpenAIProvider(base_url=URL, api_key=KEY)
    return OpenAIProvider(openai_client=suite.AsyncOpenAI(**suite.OPENAI))


def litellm_way():
    return {"api_base": URL, "api_key": KEY} if URL else {"client": client}


def autogen_model(settings):
    if URL:
        return OpenAIChatCompletionClient(model=MODEL, base_url=URL, api_key=KEY, max_tokens=40, **settings)
    arguments = {"model": MODEL, "max_tokens": 40}
    return BaseOpenAIChatCompletionClient(suite.AsyncOpenAI(**suite.OPENAI), create_args=arguments, **settings)


class Weather(BaseModel):
    """Tells the weather."""

    city: str = Field(max_length=4)
    unit: Literal["C", "F"]


def langchain_talks_streams_and_calls():
    model = chat_openai()
    assert model.bind(max_tokens=40).invoke(QUESTION).content
    assert asyncio.run(model.bind(max_tokens=40).ainvoke(QUESTION)).content
    assert "".join(chunk.content for chunk in model.bind(max_tokens=40).stream(QUESTION))
    tools = model.bind_tools([Weather], tool_choice="Weather", parallel_tool_calls=False)
    called = tools.invoke(QUESTION, max_tokens=200)
    assert [call["name"] for call in called.tool_calls] == ["Weather"], called
    Weather.model_validate(called.tool_calls[0]["args"])
    assert type(model.with_structured_output(Weather).invoke(QUESTION, max_tokens=200)) is Weather


def pydantic_ai_talks_and_has_outputs_of_a_type():
    provider = openai_provider()
    for model in (OpenAIChatModel(MODEL, provider=provider), OpenAIResponsesModel(MODEL, provider=provider)):
        settings = ModelSettings(max_tokens=200, parallel_tool_calls=False)
        assert Agent(model, model_settings=settings).run_sync(QUESTION).output
        typed = Agent(model, output_type=Weather, model_settings=settings)
        assert type(typed.run_sync(QUESTION).output) is Weather


def instructor_has_outputs_of_a_type():
    via = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    messages = [{"role": "user", "content": QUESTION}]
    bounds = {"max_tokens": 200, "max_retries": 1, "parallel_tool_calls": False}
    asked = {"model": MODEL, "messages": messages, "response_model": Weather}
    found = via.chat.completions.create(**asked, **bounds)
    assert isinstance(found, Weather)


def litellm_talks_streams_and_calls():
    asked = {"model": f"openai/{MODEL}", "max_tokens": 60} | litellm_way()
    asked |= {"messages": [{"role": "user", "content": QUESTION}]}
    assert litellm.completion(**asked).choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **asked))
    tool = openai.pydantic_function_tool(Weather)
    asked |= {"max_tokens": 200, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    called = litellm.completion(**asked)
    Weather.model_validate_json(called.choices[0].message.tool_calls[0].function.arguments)


def autogen_talks_with_names_in_its_messages():
    async def run():
        can = dict.fromkeys(["function_calling", "json_output", "structured_output"], True)
        info = {"vision": False, "family": "unknown", **can}
        model = autogen_model({"model_info": info})
        result = await AssistantAgent("assistant", model_client=model).run(task=QUESTION)
        await model.close()
        return result.messages[-1].content

    assert asyncio.run(run())


CASES = [
    langchain_talks_streams_and_calls,
    pydantic_ai_talks_and_has_outputs_of_a_type,
    instructor_has_outputs_of_a_type,
    litellm_talks_streams_and_calls,
    autogen_talks_with_names_in_its_messages,
]

suite.run(openai, CASES)
