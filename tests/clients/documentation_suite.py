"""The Python examples of the pages, run as they are printed.

Each block runs as a script of its own, in the folder that has the partner's files.
"""

import os
import pathlib
import subprocess
import sys

import cleanroom
import suite

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(os.environ["CLEANROOM_POLICY"]).parent


def example(page, script):
    def runs():
        done = subprocess.run([sys.executable, "-c", script], cwd=FOLDER, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, f"{done.stdout}\n{done.stderr}\n{script}"

    runs.__name__ = f"{page}: {script.strip().splitlines()[-1]}"
    return runs


def examples(page):
    blocks = (ROOT / page).read_text().split("```python\n")[1:]
    return [example(page, block.split("```")[0]) for block in blocks]


CASES = [case for page in ("README.md", "docs/python.md") for case in examples(page)]
assert len(CASES) >= 5, "the pages have lost their examples"

suite.run(cleanroom, CASES)
