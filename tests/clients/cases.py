"""Runs the cases in `cases/`, which say as data what is asked of a client and what its answer must look like.

`node/cases.mjs` runs the same with the clients for Node. `cases/README.md` says what the files mean.
"""

import functools
import inspect
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import suite

FOLDER = pathlib.Path(__file__).parent / "cases"


def cases(name):
    """The cases of a file, each as a function."""
    written = json.loads((FOLDER / f"{name}.json").read_text())
    clients = {"openai": suite.OpenAI(**suite.OPENAI), "anthropic": suite.Anthropic(**suite.ANTHROPIC)}
    given = {"MODEL": clients["openai"].models.list().data[0].id} | written["given"]
    secret = given["SECRET"]

    def case(steps):
        known = dict(given)
        for step in steps:
            if "ask" in step:
                asked(clients, written["asks"][step["ask"]], step, known, secret)
            for left, operator, *right in step.get("expect", []):
                check(operator, value(left, known), *[value(each, known) for each in right])

    made = []
    for each in written["cases"]:
        run = functools.partial(case, each["steps"])
        run.__name__ = each["name"]
        made.append(run)
    return made


def asked(clients, ask, step, known, secret):
    """Asks what a step says, and keeps what comes."""
    package, _, call = ask["call"].partition(" ")
    method = clients[package]
    for part in call.split("."):
        method = getattr(method, part)

    def one(more=None, stream=step.get("stream", False)):
        parameters = value(ask.get("with", {}) | step.get("with", {}) | (more or {}), known)
        if stream:
            parameters["stream"] = True
        # What the package has no name for goes into the body all the same.
        named = inspect.signature(method).parameters
        body = {name: parameters.pop(name) for name in list(parameters) if name not in named}
        return method(
            *value(step.get("arguments", ask.get("arguments", [])), known),
            **parameters,
            **({"extra_body": body} if body else {}),
            **({"extra_query": step["query"]} if "query" in step else {}),
        )

    def whole(more=None):
        answer = one(more)
        return streamed(answer) if step.get("stream") else plain(answer)

    if "refused" in step:
        refused({"openai": openai, "anthropic": anthropic}[package], one, step["refused"], secret)
    elif "closed" in step:
        for _ in range(step["closed"]):
            with one(stream=True) as stream:
                next(iter(stream))
    elif "together" in step:
        with ThreadPoolExecutor(len(step["together"])) as pool:
            known[step.get("as", "answer")] = list(pool.map(whole, step["together"]))
    elif "each" in step:
        known[step.get("as", "answer")] = [whole(more) for more in step["each"]]
    else:
        known[step.get("as", "answer")] = whole()


def refused(module, request, expected, secret):
    """Expects a typed error that repeats nothing of the request."""
    kind = getattr(module, expected["kind"])
    try:
        request()
    except kind as error:
        assert type(error) is kind, type(error)
        # One package unwraps the body, the other does not.
        body = error.body.get("error", error.body)
        told = {name: body.get(name) for name in ("code", "param", "type") if name in expected}
        assert told == {name: expected[name] for name in told}, (told, str(error))
        assert secret not in str(error)
        assert expected.get("says", "") in str(error), error
    else:
        raise AssertionError(f"expected {expected['kind']}, got an answer")


def plain(answer):
    """An answer without the package's classes."""
    made = answer.to_dict(mode="json")
    made["_request_id"] = getattr(answer, "_request_id", None)
    return made


def streamed(stream):
    """All of a stream: its events, and what they add up to."""
    chunks = [chunk.to_dict(mode="json") for chunk in stream]
    texts, thoughts, finishes = {}, "", []
    for chunk in chunks:
        for choice in chunk.get("choices", []):
            delta = choice.get("delta", choice)
            content = delta.get("content") or delta.get("text") or ""
            texts[choice["index"]] = texts.get(choice["index"], "") + content
            thoughts += delta.get("reasoning_content") or ""
            finishes += [choice["finish_reason"]] if choice.get("finish_reason") else []
        if chunk.get("type") == "content_block_delta":
            texts[0] = texts.get(0, "") + (chunk["delta"].get("text") or "")
            thoughts += chunk["delta"].get("thinking") or ""
        elif chunk.get("type") == "message_delta":
            finishes.append(chunk["delta"]["stop_reason"])
        elif chunk.get("type") == "response.output_text.delta":
            texts[0] = texts.get(0, "") + chunk["delta"]
        elif chunk.get("type") in ("response.completed", "response.incomplete"):
            finishes.append(chunk["response"]["status"])
    texts = [texts[index] for index in sorted(texts)]
    first = "".join(texts[:1])
    return {"chunks": chunks, "texts": texts, "text": first, "thoughts": thoughts, "finishes": finishes}


def value(written, known):
    """What a written value stands for."""
    if isinstance(written, str) and written.startswith("$"):
        name, *path = written[1:].split(".")
        return at(known[name], path)
    if isinstance(written, list):
        return [value(each, known) for each in written]
    if isinstance(written, dict):
        name = next(iter(written), "")
        if len(written) == 1 and name in FUNCTIONS:
            return FUNCTIONS[name](value(written[name], known))
        return {name: value(each, known) for name, each in written.items()}
    return written


def at(found, path):
    for number, part in enumerate(path):
        if part == "*":
            return [at(each, path[number + 1 :]) for each in found or []]
        if isinstance(found, list):
            index = int(part)
            found = found[index] if -len(found) <= index < len(found) else None
        else:
            found = (found or {}).get(part)
    return found


def join(parts):
    if all(isinstance(part, str) for part in parts):
        return "".join(parts)
    return [each for part in parts for each in part]


def flat(lists):
    listed = [each if isinstance(each, list) else [each] for each in lists if each is not None]
    return [one for each in listed for one in each]


def fits(call, schemas):
    """Whether the arguments of a call fit the schema of its tool, of the kinds that the cases use."""
    schema = schemas[call["name"]]
    arguments = call["input"] if "input" in call else json.loads(call["arguments"])

    def is_so(given, kind):
        return given in kind["enum"] if "enum" in kind else len(given) <= kind["maxLength"]

    kinds = schema["properties"]
    return sorted(arguments) == sorted(kinds) and all(is_so(arguments[name], kinds[name]) for name in kinds)


FUNCTIONS = {
    "$at": lambda pair: pair[0][pair[1]],
    "$before": lambda pair: pair[0].split(pair[1])[0],
    "$count": len,
    "$counts": lambda lists: [len(each or []) for each in lists],
    "$distinct": lambda each: len({json.dumps(one, sort_keys=True) for one in each}),
    "$fit": lambda pair: [fits(call, pair[1]) for call in pair[0]],
    "$furthest": lambda pair: max(abs(left - right) for left, right in zip(*pair, strict=True)),
    "$flat": flat,
    "$join": join,
    "$json": json.loads,
    "$keys": list,
    "$max": max,
    "$min": min,
    "$repeat": lambda pair: pair[0] * pair[1],
    "$squares": lambda numbers: sum(number * number for number in numbers),
    "$sum": sum,
    "$utf8": lambda lists: b"".join(map(bytes, lists)).decode(),
    "$word": lambda pair: pair[0].split(" ")[pair[1]],
}


def check(operator, left, right=None):
    holds = {
        "is": lambda: left == right,
        "is not": lambda: left != right,
        "is there": lambda: bool(left),
        "is empty": lambda: not left,
        "above": lambda: left > right,
        "at least": lambda: left >= right,
        "at most": lambda: left <= right,
        "is about": lambda: abs(left - right) < 1e-4,
        "is one of": lambda: left in right,
        "begins with": lambda: left.startswith(right),
        "has": lambda: right in left,
    }[operator]()
    assert holds, f"expected {left!r} {operator} {right!r}"
