"""Many streams at once with the official `openai` package, each again and again while standard input is open.

CLEANROOM_BASE_URL (with `/v1`) leads to the proxy, and STREAMS says how many. The package keeps its own retries. Prints a
line of JSON for each thing that happens:

    {"asked": 7}                     the package was called for the seventh time
    {"begun": 7}                     the first event of its stream is here
    {"ended": 7, "error": null}      the stream is whole; or what the package raised

For each line on standard input it prints the longest times since the last one, in seconds: between two events of one
stream, from a call to its first event, and without an event of any stream:

    {"gap": 0.21, "wait": 0.35, "silence": 0.09}
"""

import asyncio
import json
import os
import sys
import threading
import time

import openai
import suite

STREAMS = int(os.environ["STREAMS"])
QUESTION = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is attestation?"}],
    "temperature": 0,
    "max_tokens": 12,
    # The model's control tokens. Without them no answer ends early.
    "logit_bias": {"0": -100, "1": -100, "2": -100},
}

is_over = threading.Event()
longest = {"gap": 0.0, "wait": 0.0, "silence": 0.0}
calls = 0
last_event = time.monotonic()


def say(**what):
    print(json.dumps(what), flush=True)


def figures():
    say(**longest)
    longest.update(gap=0.0, wait=0.0, silence=0.0)


def listen(loop):
    for _ in sys.stdin:
        loop.call_soon_threadsafe(figures)
    is_over.set()


def took(what, since):
    """Gives the time, before which something took as long as since then."""
    now = time.monotonic()
    longest[what] = max(longest[what], now - since)
    return now


async def call(client, number):
    global last_event
    last, finish = time.monotonic(), None
    say(asked=number)
    is_first = True
    async for chunk in await client.chat.completions.create(stream=True, **QUESTION):
        last_event = took("silence", last_event)
        last = took("wait" if is_first else "gap", last)
        if is_first:
            say(begun=number)
        is_first = False
        finish = chunk.choices[0].finish_reason or finish
    if finish is None:
        raise ValueError("a stream without a finish reason")


async def stream(client):
    global calls
    while not is_over.is_set():
        calls += 1
        number, error = calls, None
        try:
            await call(client, number)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        say(ended=number, error=error)


async def main():
    threading.Thread(target=listen, args=[asyncio.get_running_loop()], daemon=True).start()
    async with suite.AsyncOpenAI(**suite.OPENAI) as client:
        await asyncio.gather(*(stream(client) for _ in range(STREAMS)))


print(f"openai {openai.__version__}", file=sys.stderr)
asyncio.run(main())
