"""Clients that prove a clean room before they send.

`OpenAI`, `AsyncOpenAI`, `Anthropic` and `AsyncAnthropic` are the official clients with another way to the
model: a channel that this process itself has proven, against your policy, before the first byte of a request
leaves it. There is no proxy, no port, and no second process.

    import cleanroom

    client = cleanroom.OpenAI("cleanroom.example:8443", policy="trust.toml", key="cleanroom.key")
    answer = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hello"}])
    proof = cleanroom.proof(answer)
    print(proof.image, proof.model_sha256, proof.receipt)

What cannot be proven raises `NotProven`, and nothing was sent.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._channel import Channel
from ._errors import CleanroomError, Failure, NotProven, NotReached
from ._native import VERSION as __version__
from ._program import Report, explain, measure, verify
from ._proof import Proof, Receipt, proof

if TYPE_CHECKING:
    from ._anthropic import Anthropic, AsyncAnthropic
    from ._openai import AsyncOpenAI, OpenAI

__all__ = [
    "Anthropic",
    "AsyncAnthropic",
    "AsyncOpenAI",
    "Channel",
    "CleanroomError",
    "Failure",
    "NotProven",
    "NotReached",
    "OpenAI",
    "Proof",
    "Receipt",
    "Report",
    "__version__",
    "explain",
    "measure",
    "proof",
    "verify",
]


def __getattr__(name: str) -> object:
    # Each official package is imported by those who use its client alone.
    for module, classes in (("_openai", ("OpenAI", "AsyncOpenAI")), ("_anthropic", ("Anthropic", "AsyncAnthropic"))):
        if name in classes:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module 'cleanroom' has no attribute {name!r}")
