"""The package `cleanroom` through a real HTTP proxy: an answer, and the proxy's refusals in words.

CLEANROOM_PROXY is the proxy; CLEANROOM_REFUSALS lists as JSON a proxy, an address, and what the exception says. Prints one line
for each case and exits with 1 if one fails.
"""

import json
import os

import cleanroom
import suite

FILES = {"policy": os.environ["CLEANROOM_POLICY"], "key": os.environ["CLEANROOM_KEY"]}
QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "What is attestation?"}], "max_tokens": 8}


def an_answer_comes_through_the_proxy():
    channel = cleanroom.Channel(os.environ["CLEANROOM_ADDRESS"], proxy=os.environ["CLEANROOM_PROXY"], **FILES)
    answer = cleanroom.OpenAI(channel).chat.completions.create(**QUESTION)
    assert cleanroom.proof(answer).receipt


def refusals_are_told_and_nothing_was_sent():
    for proxy, address, said in json.loads(os.environ["CLEANROOM_REFUSALS"]):
        channel = cleanroom.Channel(address, proxy=proxy, **FILES)
        try:
            cleanroom.OpenAI(channel, max_retries=0).chat.completions.create(**QUESTION)
        except cleanroom.NotReached as error:
            assert (error.code, error.reach) == ("unreachable", "never-sent"), error
            assert said in str(error) and "secret" not in str(error), error
        else:
            raise AssertionError("the request was sent")


suite.run(cleanroom, [an_answer_comes_through_the_proxy, refusals_are_told_and_nothing_was_sent])
