"""The official `openai` package, unmodified, against a Cleanroom API whose model gives embeddings.

`suite` says how the API is reached. Prints one line for each case and exits with 1 if one fails.
"""

import openai
import suite
from openai import BadRequestError
from suite import OpenAI

client = OpenAI(**suite.OPENAI)
MODEL = client.models.list().data[0].id
TEXTS = ["What is attestation?", "The platform signs a document."]


def embed(**parameters):
    return client.embeddings.create(**{"model": MODEL} | parameters)


def texts_have_a_direction_each():
    answer = embed(input=TEXTS)  # In base64, which the package asks for by itself.
    assert [embedding.index for embedding in answer.data] == [0, 1] and answer.model == MODEL
    for embedding in answer.data:
        assert len(embedding.embedding) == 256
        assert abs(sum(number * number for number in embedding.embedding) - 1) < 1e-4
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    assert answer.data[0].embedding != answer.data[1].embedding


def both_encodings_say_the_same():
    base64 = embed(input=TEXTS[0]).data[0].embedding
    floats = embed(input=TEXTS[0], encoding_format="float").data[0].embedding
    assert all(abs(a - b) < 1e-7 for a, b in zip(base64, floats, strict=True))


def tokens_are_embedded_too():
    one, several = embed(input=[300, 301]), embed(input=[[300, 301], [302]])
    assert one.data[0].embedding == several.data[0].embedding and len(several.data) == 2


def what_cannot_be_is_refused():
    for parameters, param in [({"input": "x", "dimensions": 7}, "dimensions"), ({"input": []}, "input")]:
        try:
            embed(**parameters)
        except BadRequestError as error:
            assert (error.code, error.param) == ("invalid_value", param), error
        else:
            raise AssertionError(f"{param} was accepted")


CASES = [
    texts_have_a_direction_each,
    both_encodings_say_the_same,
    tokens_are_embedded_too,
    what_cannot_be_is_refused,
]

suite.run(openai, CASES)
