#!/usr/bin/env python3
"""Computes the scores of a GGUF file's model with transformers: the file's weights as float32, on the processor, nothing rounded
to fewer bits.

Reads lines on standard input, each a JSON array of a path and a list of prompts (lists of tokens, all of one length). Writes the
scores after every token of every prompt, in order, as little-endian float32. Needs what requirements.txt names.
"""

import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["TQDM_DISABLE"] = "1"
import reference
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
answers = os.fdopen(os.dup(1), "wb")
# What a library prints must not get between the numbers.
os.dup2(2, 1)
# Whose settings transformers' own reader does not read, or not all of them.
READ_HERE = (*reference.GEMMA, *reference.PHI, *reference.EXPERTS, "mistral3")


def load(path):
    if reference.File(path).architecture in READ_HERE:
        return reference.load(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def main():
    torch.manual_seed(0)
    for line in sys.stdin:
        path, prompts = json.loads(line)
        found = reference.scores(load(pathlib.Path(path)), prompts)
        answers.write(found.astype("<f4").tobytes())
        answers.flush()


main()
