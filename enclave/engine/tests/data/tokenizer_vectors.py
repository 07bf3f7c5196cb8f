#!/usr/bin/env python3
"""Writes tokenizer_vectors.txt: texts and the tokens that the PyPI package `tokenizers` makes of them with the
vocabulary and merges of models/demo.gguf, for each supported word split.

usage: tokenizer_vectors.py ../../../../models/demo.gguf > tokenizer_vectors.txt      (needs tokenizers and gguf)

Each line: the split's name, the UTF-8 text in hexadecimal, the token numbers.
"""

import random
import sys

from gguf import GGUFReader
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LARGE, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{LARGE}*{SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{LARGE}+{SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = TEKKEN.replace(r"+|[", r"+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[", 1)
GPT4O = GPT4O.replace(rf"{SMALL}*|\p{{N}}|", rf"{SMALL}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{{N}}{{1,3}}|")
SPLITS = {
    "gpt-2": [WORDS],
    "smollm": [r"\p{N}", WORDS],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "falcon3": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "tekken": [TEKKEN],
    "dbrx": [LLAMA3],
    "gpt-4o": [GPT4O],
}
# A word that is itself a token becomes that token without any merges.
WHOLE = ["falcon3", "tekken"]
FIXED = [
    "Hello, world!  It's 12,345.67 o'clock; they'll've gone.\n\n\tTabs\tand   spaces   ",
    "<|im_end|>\n<|im_start|>system\nYou are free.<|im_end|>",
    " ",
    "   ",
    "\n \n",
    "a  b",
    "x\u00a0y\u2003 z",
    "\u3000\u3000",
    "Grüße aus Köln — 'Straße'",
    "日本語のテキスト、１２３と４５。",
    "مرحبا ١٢٣",
    "नमस्ते दुनिया",
    "e\u0301te\u0308",
    "🙂👩‍👩‍👧 ok",
    "½ ² Ⅷ ① ६",
    "don't DON'T 'S 's s'",
    "a'b''c'll",
    "1234567 89 0",
    'fn main() { println!("{}", 1<<3 & !x); }',
    "\x00\x01\x7f\x85\u2028\u200b",
    "ǅ ʰ ª º ـ \u0345 Ⓐ ㊀",
    "$100+€5=<7>^2~|`",
    "¿Qué? «sí» „ja“",
    "\r\n\r\n x\r y",
    "HTMLParser camelCase ÉCOLE École ǅungla ʰA ªB 日本A a日B Ω\u0301A \u0301\u0301AB A\u0301b",
    "path/to/file //\n/\n/x !/\r\n/ a/b",
]
ALPHABET = list("abzABZ019  \n\t'.,!<|>_-$+=^~`\"") + [
    "'s",
    "'ll",
    "'re",
    "é",
    "ß",
    "日",
    "本",
    "１",
    "½",
    "🙂",
    "\u00a0",
    "\u0301",
    "Ω",
    "٣",
    "—",
    "€",
    "\r\n",
]
# Letters of every case and of none, marks, and what may stand before and behind a word.
LETTERS = list("aBcD '/.\n\t1") + ["É", "é", "ǅ", "ʰ", "ª", "日", "本", "\u0301", "\u0903", "Ω", "ω", "\u200b"]


def main(path):
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: index for index, (token, kind) in enumerate(zip(tokens, types)) if kind == 1}
    random.seed(5)
    texts = FIXED + ["".join(random.choices(ALPHABET, k=random.randrange(1, 60))) for _ in range(60)]
    texts += ["".join(random.choices(LETTERS, k=random.randrange(1, 40))) for _ in range(60)]
    for name, expressions in SPLITS.items():
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name in WHOLE))
        stages = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in expressions]
        stages.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            print(name, text.encode().hex(), " ".join(map(str, ids)), sep="\t")


main(sys.argv[1])
