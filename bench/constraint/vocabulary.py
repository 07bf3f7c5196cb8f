#!/usr/bin/env python3
"""Writes the vocabulary of a published model, as a list of base64 texts and ranks, as a GGUF file without tensors.

usage: vocabulary.py RANKS OUT.gguf          (needs gguf from PyPI)
"""

import base64
import sys

import gguf

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def letters():
    """The letter that byte-level vocabularies write for each byte: itself where it can be seen, and from 256 on where not."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(unseen)}


def parts(token, rank, ranks):
    """The two tokens that are joined to this one: what is left when only merges of lower rank are made."""
    pieces = [bytes([byte]) for byte in token]
    while len(pieces) > 2:
        pairs = ((ranks.get(a + b, rank), place) for place, (a, b) in enumerate(zip(pieces, pieces[1:])))
        lowest, place = min(pairs)
        if lowest >= rank:
            sys.exit(f"token {rank} is not made of two others")
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def main(source, out):
    with open(source, "rb") as file:
        lines = [line.split() for line in file if line.strip()]
    ranks = {base64.b64decode(text): int(rank) for text, rank in lines}
    names = letters()
    name = lambda token: "".join(names[byte] for byte in token)
    tokens = [name(token) for token in sorted(ranks, key=ranks.get)] + CONTROL
    joined = (token for token in sorted(ranks, key=ranks.get) if len(token) > 1)
    merges = [" ".join(map(name, parts(token, ranks[token], ranks))) for token in joined]
    writer = gguf.GGUFWriter(out, "qwen2")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(ranks) + [3] * len(CONTROL))
    writer.add_token_merges(merges)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


main(*sys.argv[1:])
