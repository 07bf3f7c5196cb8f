"""The package `cleanroom`: proofs, receipts, its own exceptions, and how a generation is ended.

`suite` says how the clean room is reached. Prints one line for each case and exits with 1 if one fails.
"""

import asyncio
import json
import os
import signal
import tempfile
import threading
import time

import anthropic
import cleanroom
import openai
import suite
from suite import Anthropic, AsyncAnthropic, AsyncOpenAI, OpenAI

client = OpenAI(**suite.OPENAI)
MODEL = client.models.list().data[0].id
SECRET = "Zwetschgenkuchen"
QUESTION = [{"role": "user", "content": f"What is attestation? {SECRET}"}]
LONG = {"model": MODEL, "messages": QUESTION, "max_tokens": 400, "temperature": 0}
FILES = {"policy": os.environ["CLEANROOM_POLICY"], "key": os.environ["CLEANROOM_KEY"]}
ADDRESS = os.environ["CLEANROOM_ADDRESS"]


def ask(via=client, **parameters):
    return via.chat.completions.create(**LONG | {"max_tokens": 8} | parameters)


def raised(kind, request):
    """The exception that a request raises, which repeats nothing of it."""
    try:
        request()
    except kind as error:
        assert SECRET not in str(error) + repr(error), error
        return error
    raise AssertionError(f"expected {kind.__name__}")


def an_answer_has_its_proof_and_its_receipt():
    answer = ask()
    proof = cleanroom.proof(answer)
    assert answer.cleanroom is proof
    assert (proof.image, proof.tier) == ("the image", "development"), proof
    # Nobody asked about the deployment, all else passed.
    assert proof.verdict["outcome"] == "partial", proof.verdict
    receipt = proof.receipt
    assert receipt.payload["id"] == answer._request_id and receipt.payload["model_sha256"] == proof.model_sha256, receipt.payload
    assert receipt.payload["session"] == proof.transcript_sha384
    assert "cleanroom" not in answer.model_dump() and "cleanroom" not in repr(answer)
    assert SECRET not in repr(proof) + repr(receipt) + json.dumps(receipt.payload)


def a_stream_has_its_receipt_when_it_has_ended():
    with ask(stream=True) as stream:
        proof = cleanroom.proof(stream)
        next(iter(stream))
        assert proof.receipt is None
        for _ in stream:
            pass
    assert proof.receipt.payload["finish"], proof.receipt.payload


def messages_have_proofs_and_receipts_too():
    other = Anthropic(**suite.ANTHROPIC)
    question = {"model": MODEL, "messages": QUESTION, "max_tokens": 8}
    message = other.messages.create(**question)
    assert cleanroom.proof(message).receipt.payload["id"] == message.id
    with other.messages.stream(**question) as stream:
        stream.get_final_message()
        assert cleanroom.proof(stream).receipt


def asynchronous_answers_have_them_too():
    async def both():
        async with AsyncOpenAI(**suite.OPENAI) as one, AsyncAnthropic(**suite.ANTHROPIC) as other:
            answer = await ask(one)
            stream = await ask(one, stream=True)
            async for _ in stream:
                pass
            message = await other.messages.create(model=MODEL, messages=QUESTION, max_tokens=8)
            return answer, stream, message

    for answer in asyncio.run(both()):
        assert cleanroom.proof(answer).receipt, answer


def a_refusal_of_the_clean_room_has_its_proof_and_receipt():
    error = raised(openai.BadRequestError, lambda: ask(temperature=17))
    assert cleanroom.proof(error).receipt.payload["model_sha256"] == cleanroom.proof(error).model_sha256
    error = raised(openai.NotFoundError, lambda: client.models.retrieve("gpt"))
    assert error.cleanroom.image == "the image"


def receipts_are_kept_where_the_channel_says():
    with tempfile.TemporaryDirectory() as folder:
        keeping = cleanroom.OpenAI(ADDRESS, **FILES, receipts=folder)
        answer = ask(keeping)
        path = answer.cleanroom.receipt.path
        assert path.startswith(folder) and json.load(open(path)), path


def verifications_are_recorded_also_those_that_fail():
    with tempfile.TemporaryDirectory() as folder:
        ask(cleanroom.OpenAI(ADDRESS, **FILES, record=folder))
        nobody = cleanroom.Anthropic("unix:/nowhere/host.sock", **FILES, record=folder, max_retries=0)
        raised(cleanroom.NotReached, lambda: nobody.models.list())
        records = [json.load(open(os.path.join(folder, name))) for name in os.listdir(folder)]
        assert sorted(record["outcome"] for record in records) == ["proven", "unreachable"], records
        assert SECRET not in json.dumps(records)


def a_policy_that_asks_for_more_raises_before_anything_is_sent():
    with tempfile.TemporaryDirectory() as folder:
        text = open(FILES["policy"]).read()
        pcr0 = text.split('pcr0 = "')[1].split('"')[0]
        with open(os.path.join(folder, "strict.toml"), "w") as file:
            file.write(text.replace(pcr0, pcr0[::-1]))
        strict = FILES | {"policy": file.name}
        channel = cleanroom.Channel(ADDRESS, **strict)
        error = raised(cleanroom.NotProven, lambda: ask(cleanroom.OpenAI(channel)))
        assert isinstance(error, openai.APIConnectionError)
        assert (error.code, error.reach) == ("pcr0-mismatch", "never-sent"), error.code
        assert error.verdict["outcome"] == "fail" and cleanroom.proof(error) is None, error.verdict
        other = cleanroom.Anthropic(channel)
        error = raised(
            anthropic.APIConnectionError,
            lambda: other.messages.create(model=MODEL, messages=QUESTION, max_tokens=8),
        )
        assert isinstance(error, cleanroom.NotProven) and error.code == "pcr0-mismatch"
        assert raised(cleanroom.NotProven, channel.prove).code == "pcr0-mismatch"
        assert raised(cleanroom.NotProven, lambda: cleanroom.verify(ADDRESS, **strict)).code == "pcr0-mismatch"


def nobody_there_is_another_exception():
    nowhere = cleanroom.OpenAI("unix:/nowhere/host.sock", **FILES, max_retries=0)
    error = raised(cleanroom.NotReached, lambda: ask(nowhere))
    assert (error.code, error.reach) == ("unreachable", "never-sent"), error.code


def files_that_are_wrong_say_so():
    assert raised(cleanroom.Failure, lambda: cleanroom.Channel(ADDRESS, policy="/nowhere", key="k")).code == "unreadable"
    assert raised(cleanroom.Failure, lambda: cleanroom.Channel("no address", **FILES)).code == "usage"


def nothing_leads_around_the_proof():
    for wrong in ({"http_client": openai.DefaultHttpxClient()}, {"base_url": "https://api.openai.com/v1"}):
        raised(TypeError, lambda: OpenAI(suite.CHANNEL, **wrong))
    del os.environ["CLEANROOM_ADDRESS"]
    raised(TypeError, lambda: OpenAI())
    os.environ["CLEANROOM_ADDRESS"] = ADDRESS
    copied = client.with_options(max_retries=0)
    assert type(copied) is OpenAI and copied.channel is suite.CHANNEL
    raised(TypeError, lambda: client.copy(base_url="https://api.openai.com/v1"))


def what_verify_reports():
    report = cleanroom.verify(ADDRESS, **FILES)
    assert report.passed and report["accepted"] and report["code"] is None, report


def half_of_the_places_are_free_again(begun):
    """Whether generations were ended: 60 more streams than there are places."""
    for _ in range(60):
        begun()
    assert ask().choices[0].finish_reason


def a_cancelled_task_ends_the_generation():
    async def cancelled():
        async with AsyncOpenAI(**suite.OPENAI) as asynchronous:
            for _ in range(60):
                task = asyncio.create_task(asynchronous.chat.completions.create(**LONG))
                await asyncio.sleep(0.005)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    continue
            return await ask(asynchronous)

    assert asyncio.run(cancelled()).choices[0].finish_reason


def ctrl_c_ends_the_generation():
    # A process that a shell started in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream in (False, True):
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        begun = time.monotonic()
        timer.start()
        try:
            while True:
                answer = ask(stream=stream, max_tokens=400)
                for _ in answer if stream else ():
                    pass
        except KeyboardInterrupt:
            assert time.monotonic() - begun < 30
        timer.join()
    half_of_the_places_are_free_again(lambda: ask(stream=True, max_tokens=400).close())


def other_threads_run_while_one_waits():
    counted = 0
    answered = threading.Event()
    threading.Thread(target=lambda: (ask(max_tokens=100), answered.set())).start()
    while not answered.is_set():
        counted += 1
    assert counted > 1000, counted


def a_time_limit_is_kept():
    raised(openai.APITimeoutError, lambda: client.with_options(timeout=0.001, max_retries=0).chat.completions.create(**LONG))


def after_a_fork_the_child_is_told():
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            suite.CHANNEL.prove()
        except cleanroom.Failure as error:
            os.write(writer, error.code.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"forked"


CASES = [
    an_answer_has_its_proof_and_its_receipt,
    a_stream_has_its_receipt_when_it_has_ended,
    messages_have_proofs_and_receipts_too,
    asynchronous_answers_have_them_too,
    a_refusal_of_the_clean_room_has_its_proof_and_receipt,
    receipts_are_kept_where_the_channel_says,
    verifications_are_recorded_also_those_that_fail,
    a_policy_that_asks_for_more_raises_before_anything_is_sent,
    nobody_there_is_another_exception,
    files_that_are_wrong_say_so,
    nothing_leads_around_the_proof,
    what_verify_reports,
    a_cancelled_task_ends_the_generation,
    ctrl_c_ends_the_generation,
    other_threads_run_while_one_waits,
    a_time_limit_is_kept,
    after_a_fork_the_child_is_told,
]

suite.run(cleanroom, CASES)
