#!/usr/bin/env python3
"""Trains a small tokenizer of every supported kind on the texts of this machine and writes each as a GGUF file without
tensors, for comparing tokenizers.

usage: vocabularies.py FOLDER          (needs tokenizers, sentencepiece and gguf from PyPI)
"""

import glob
import io
import pathlib
import sys

import gguf
import sentencepiece
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {"llama-bpe": LLAMA3, "qwen2": LLAMA3.replace("{1,3}", "")}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SIZE = 6000


def texts(limit=6_000_000):
    """Prose, code and what other languages there are, up to so many characters."""
    found = 0
    for pattern in ["/usr/share/doc/**/*", "/usr/lib/python3*/**/*.py", "/usr/share/perl/**/*.pod"]:
        taken = 0
        for path in sorted(glob.glob(pattern, recursive=True)):
            try:
                text = pathlib.Path(path).read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            yield text
            taken += len(text)
            if taken > limit / 3:
                break
        found += taken
    if not found:
        sys.exit("no texts to train on")


def write(folder, name, model, tokens, types, **more):
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if "merges" in more:
        writer.add_tokenizer_pre(name)
        writer.add_token_merges(more["merges"])
    if "scores" in more:
        writer.add_token_scores(more["scores"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def byte_pairs(folder, name, expression):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(expression), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    import json

    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    types = [3 if token in CONTROL else 1 for token in tokens]
    write(folder, name, "gpt2", tokens, types, merges=merges)


def sentence_pieces(folder):
    trained = io.BytesIO()
    lines = (line for text in texts() for line in text.splitlines() if 0 < len(line) < 4000)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=trained, vocab_size=SIZE, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, character_coverage=0.9995,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    kinds = [(model.is_unknown, 2), (model.is_control, 3), (model.is_byte, 6)]
    ids = range(model.get_piece_size())
    types = [next((number for is_kind, number in kinds if is_kind(id)), 1) for id in ids]
    scores = [model.get_score(id) for id in ids]
    write(folder, "sentence-pieces", "llama", [model.id_to_piece(id) for id in ids], types, scores=scores)


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, expression in SPLITS.items():
        byte_pairs(folder, name, expression)
    sentence_pieces(folder)


main(sys.argv[1])
