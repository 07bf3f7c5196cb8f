"""What the way to a clean room costs: the Python package, which proves it in process, against the local proxy.

    client.py PROGRAMS MODEL [REQUESTS]

PROGRAMS is the folder of the project's programs. Starts a simulated clean room and `cleanroom connect`, and asks for one
token at a time, by turns over the official client with the proxy and over `cleanroom.OpenAI`, in one process. Then measures
the resident memory of each way in a process of its own. Exit code 0 when every target is met.
"""

import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

INSTANCE = "i-0c1ea2200cc1ea220"
WARM_UP = 20
REQUESTS = 400
# The most that a request in process may take longer, in milliseconds.
TARGET_MS = 1.0
QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "What is attestation?"}], "max_tokens": 1}


def over_proxy(url):
    import openai

    return openai.OpenAI(base_url=url, api_key="unused", max_retries=0)


def in_process(address, folder):
    import cleanroom

    return cleanroom.OpenAI(address, policy=f"{folder}/trust.toml", key=f"{folder}/partner.key", max_retries=0)


def ask(client):
    begun = time.perf_counter()
    client.chat.completions.create(**QUESTION)
    return (time.perf_counter() - begun) * 1000


def resident(process):
    """Resident memory in MiB."""
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


class Room:
    """A simulated clean room and the partner's proxy, as processes."""

    def __init__(self, programs, model, folder):
        self.folder, self.programs, self.running = folder, programs, []
        self.run("cleanroom", "key", "new", "--key", "partner.key")
        (folder / "enclave.toml").write_text('version = 1\nmodel = "demo"\npartners = "any"\n')
        shutil.copy(programs / "cleanroom-enclave-simulated", folder / "enclave")
        enclave = ["--config", "enclave.toml", "--instance-id", INSTANCE]
        host = ["run", "--tier", "simulated", "--enclave", "enclave", "--listen", "127.0.0.1:0", "--state", "state"]
        _, self.address = self.start("ready: partners connect to ", "cleanroom-host", *host, "--model", model, *enclave)
        root = ["trust", "--development-root", "state/development-root.pem", "--program", "enclave"]
        trust = self.run("cleanroom-authority", *root, "--model", f"demo={model}", *enclave)
        (folder / "trust.toml").write_text(trust)
        connect = ["connect", self.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"]
        self.proxy, listen = self.start('"base_url": "', "cleanroom", *connect)
        self.url = listen.split('"')[0]

    def run(self, program, *arguments):
        command = [self.programs / program, *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def start(self, marker, program, *arguments):
        """Starts a program and reads on until a line has the marker; gives the process and what follows."""
        log = open(self.folder / f"{program}.log", "w")
        command = [self.programs / program, *arguments]
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, text=True)
        self.running.append(process)
        for line in process.stdout:
            if marker in line:
                return process, line.split(marker)[1].strip()
        raise SystemExit(f"{program} ended early: {(self.folder / f'{program}.log').read_text()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.terminate()
            process.wait()


def memory(way, *arguments):
    """Resident memory in MiB of a process that has asked some questions on this way."""
    command = [sys.executable, __file__, "--memory", way, *map(str, arguments)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_memory(way, *arguments):
    client = {"proxy": over_proxy, "process": in_process}[way](*arguments)
    for _ in range(50):
        ask(client)
    print(resident("self"))


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main(programs, model, requests=REQUESTS):
    requests = int(requests)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with Room(pathlib.Path(programs).resolve(), str(pathlib.Path(model).resolve()), folder) as room:
            ways = {"proxy": over_proxy(room.url), "process": in_process(room.address, folder)}
            for client in ways.values():
                for _ in range(WARM_UP):
                    ask(client)
            times = {way: [] for way in ways}
            for number in range(requests):
                # Each way is first as often as the other.
                for way in sorted(ways, reverse=number % 2 == 1):
                    times[way].append(ask(ways[way]))
            proxy = resident(room.proxy.pid)
            alone = {"proxy": memory("proxy", room.url), "process": memory("process", room.address, folder)}
    median = {way: statistics.median(times[way]) for way in ways}
    tail = {way: statistics.quantiles(times[way], n=20)[-1] for way in ways}
    more = median["process"] - median["proxy"]
    print(f"{processor()}; {requests} requests each, by turns, one token each")
    for way, name in (("proxy", "official client, local proxy"), ("process", "cleanroom.OpenAI, in process")):
        print(f"{name:30} median {median[way]:7.2f} ms   95 of 100 within {tail[way]:7.2f} ms")
    print(f"in process minus proxy: {more:+.2f} ms (target: at most {TARGET_MS:+.2f} ms)")
    sums = f"{alone['proxy']:.1f} + {proxy:.1f}"
    print(f"resident: client and proxy {sums} = {alone['proxy'] + proxy:.1f} MiB; in process {alone['process']:.1f} MiB")
    return more <= TARGET_MS


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(*sys.argv[2:])
    elif len(sys.argv) in (3, 4):
        sys.exit(0 if main(*sys.argv[1:]) else 1)
    else:
        sys.exit(__doc__)
