"""The package `cleanroom` against hosts that lie: each lie raises an exception of its own before anything is sent.

CLEANROOM_HOSTS lists the hosts as JSON: name, address and the code that is due. Prints one line for each and exits
with 1 if one fails.
"""

import asyncio
import json
import os

import cleanroom
import suite

# Whatever the host, the partner's files are the same.
FILES = {"policy": os.environ["CLEANROOM_POLICY"], "key": os.environ["CLEANROOM_KEY"]}
SECRET = "Zwetschgenkuchen"
QUESTION = {"model": "demo", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 8}


def expect(code, error):
    assert (error.code, error.reach) == (code, "never-sent"), (error.code, error.reach, error)
    assert cleanroom.proof(error) is None
    assert SECRET not in str(error) + repr(error)


def host(name, address, code):
    def is_refused():
        channel = cleanroom.Channel(address, **FILES)
        try:
            cleanroom.OpenAI(channel, max_retries=0).chat.completions.create(**QUESTION)
        except cleanroom.CleanroomError as error:
            expect(code, error)
        else:
            raise AssertionError("the request was sent")

        async def asked():
            async with cleanroom.AsyncAnthropic(channel, max_retries=0) as client:
                await client.messages.create(**QUESTION)

        try:
            asyncio.run(asked())
        except cleanroom.CleanroomError as error:
            expect(code, error)
        else:
            raise AssertionError("the request was sent")

    is_refused.__name__ = f"{name} gives {code}"
    return is_refused

suite.run(cleanroom, [host(*case) for case in json.loads(os.environ["CLEANROOM_HOSTS"])])
