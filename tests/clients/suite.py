"""Runs the cases of a suite: a line for each, and exit status 1 if one fails."""

import sys
import time
import traceback


def run(package, cases):
    failed = 0
    for case in cases:
        name = case.__name__.replace("_", " ")
        start = time.monotonic()
        try:
            case()
        except Exception:
            failed += 1
            print(f"FAILED  {name}", traceback.format_exc(), sep="\n", flush=True)
        else:
            print(f"ok      {name} ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"{package.__name__} {package.__version__}: {len(cases) - failed} of {len(cases)} cases passed")
    sys.exit(1 if failed else 0)
