"""What the suites share: the clients, and the run of the cases.

CLEANROOM_BASE_URL (with `/v1`) leads the official clients, unmodified, to a server or the local proxy. Without it,
CLEANROOM_ADDRESS, CLEANROOM_POLICY and CLEANROOM_KEY lead the clients of the package `cleanroom`, in process, to the
same. A case is written once and runs both ways; those in `cases/` run with the clients for Node too.
"""

import contextlib
import os
import sys
import time
import traceback

API_KEY = "the partner's key proves who it is; this one is not looked at"

if url := os.environ.get("CLEANROOM_BASE_URL"):
    from openai import AsyncOpenAI, OpenAI

    # Frameworks over one package do not need the other.
    with contextlib.suppress(ImportError):
        from anthropic import Anthropic, AsyncAnthropic
    OPENAI = {"base_url": url, "api_key": API_KEY, "timeout": 60.0}
    ANTHROPIC = OPENAI | {"base_url": url.removesuffix("/v1")}
else:
    import cleanroom
    from cleanroom import AsyncOpenAI, OpenAI

    with contextlib.suppress(ImportError):
        from cleanroom import Anthropic, AsyncAnthropic
    CHANNEL = cleanroom.Channel(
        os.environ["CLEANROOM_ADDRESS"], policy=os.environ["CLEANROOM_POLICY"], key=os.environ["CLEANROOM_KEY"]
    )
    OPENAI = ANTHROPIC = {"channel": CHANNEL, "api_key": API_KEY, "timeout": 60.0}

__all__ = ["ANTHROPIC", "OPENAI", "Anthropic", "AsyncAnthropic", "AsyncOpenAI", "OpenAI", "run"]


def run(package, cases):
    # Cases that a room with another engine than the project's own cannot pass, by name. They are run and must fail.
    differences = os.environ.get("CLEANROOM_DIFFERENCES", "").split(";")
    failed = 0
    for case in cases:
        name = case.__name__.replace("_", " ")
        start = time.monotonic()
        try:
            case()
        except Exception:
            if name in differences:
                print(f"differs {name}", flush=True)
                continue
            failed += 1
            print(f"FAILED  {name}", traceback.format_exc(), sep="\n", flush=True)
        else:
            if name in differences:
                failed += 1
                print(f"FAILED  {name}: it passes, so it is no difference", flush=True)
                continue
            print(f"ok      {name} ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"{package.__name__} {package.__version__}: {len(cases) - failed} of {len(cases)} cases passed")
    sys.exit(1 if failed else 0)
