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
import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
answers = os.fdopen(os.dup(1), "wb")
# What a library prints must not get between the numbers.
os.dup2(2, 1)


def main():
    torch.manual_seed(0)
    for line in sys.stdin:
        path, prompts = json.loads(line)
        path = pathlib.Path(path)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.inference_mode():
            scores = model.eval()(torch.tensor(prompts)).logits
        assert scores.dtype == torch.float32
        answers.write(scores.contiguous().numpy().astype("<f4").tobytes())
        answers.flush()


main()
