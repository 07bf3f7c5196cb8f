#!/usr/bin/env python3
"""Writes the text classifier of the PyPI package metatronnanoguard (MIT) as a GGUF file.

usage: nanoguard_gguf.py WHEEL OUT.gguf [--weights q8_0|f16|f32] [--padding TOKENS]

Needs gguf and numpy from PyPI; `scripts/classifier` installs them, downloads the wheel and runs this. The same
wheel and options give the same bytes.

The package keeps its weights and its tokenizer as pickles, which can run code when they are read. They are read
here, outside of any enclave, by a reader that knows four names and runs nothing else, and only if the wheel is
the one that was looked at.
"""

import argparse
import collections
import hashlib
import io
import pickle
import sys
import zipfile

import gguf
import numpy

WHEEL_SHA256 = "615c7a6836a2f3ec1227c7aae4136e22b5d36de0bf5bbed95b8278e0e48374e2"
# How `tokenizer.ggml.pre` calls the pattern below, and the tokens that begin and fill a text.
SPLIT = "nanochat"
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
FIRST, FILLING = "<|reserved_0|>", "<|reserved_1|>"
LABELS = ["safe", "injection"]
LAYER = {
    "attn.c_q": "attn_q",
    "attn.c_k": "attn_k",
    "attn.c_v": "attn_v",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
VECTORS = {
    "resid_lambdas": "stream_scale.weight",
    "x0_lambdas": "start_scale.weight",
    "cls_norm.weight": "cls_norm.weight",
    "cls_norm.bias": "cls_norm.bias",
    "cls_head.weight": "cls.output.weight",
    "cls_head.bias": "cls.output.bias",
}
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}


class Reader(pickle.Unpickler):
    """Reads a pickle that names nothing but `names`."""

    def __init__(self, data, names, storages=None):
        super().__init__(io.BytesIO(data))
        self.names, self.storages = names, storages

    def find_class(self, module, name):
        try:
            return self.names[module, name]
        except KeyError:
            raise ValueError(f"the pickle names {module}.{name}") from None

    def persistent_load(self, pid):
        kind, dtype, key, _device, count = pid
        if kind != "storage" or self.storages is None:
            raise ValueError("the pickle names something that is no storage")
        return dtype(self.storages(key), count)


def numbers32(data, count):
    return numpy.frombuffer(data, "<f4", count)


def numbers16(data, count):
    return (numpy.frombuffer(data, "<u2", count).astype("<u4") << 16).view("<f4")


def tensor(storage, offset, size, stride, *_rest):
    expected = tuple(int(numpy.prod(size[place + 1 :])) for place in range(len(size)))
    if offset != 0 or tuple(stride) != expected:
        raise ValueError("a tensor is not stored row after row")
    return storage.reshape(size)


class Encoding:
    """What stands for tiktoken's `Encoding`: the members of its state."""

    def __setstate__(self, state):
        self.pattern, self.ranks = state["pat_str"], state["mergeable_ranks"]
        self.special = state["special_tokens"]


def read_weights(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (index,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = index.removesuffix("data.pkl")
        names = {
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch", "FloatStorage"): numbers32,
            ("torch", "BFloat16Storage"): numbers16,
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        return Reader(archive.read(index), names, lambda key: archive.read(f"{folder}data/{key}")).load()


def read_tokenizer(data):
    return Reader(data, {("tiktoken.core", "Encoding"): Encoding}).load()


def alphabet():
    """The visible character of each byte, as GPT-2 has them."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    characters = {byte: chr(byte) for byte in itself}
    characters.update({byte: chr(0x100 + index) for index, byte in enumerate(others)})
    return characters


def write_tokenizer(writer, pattern, ranks, special):
    if pattern != PATTERN:
        raise ValueError("the tokenizer cuts words by another pattern")
    characters = alphabet()
    written = {token: "".join(characters[byte] for byte in token) for token in ranks}
    texts = {rank: (written[token], gguf.TokenType.NORMAL) for token, rank in ranks.items()}
    texts.update({number: (text, gguf.TokenType.CONTROL) for text, number in special.items()})
    if sorted(texts) != list(range(len(texts))):
        raise ValueError("the tokens are not numbered without gaps")
    # tiktoken joins any two neighbours that are a token together, the one with the lowest number first.
    merges = []
    for token in sorted(ranks, key=ranks.get):
        for cut in range(1, len(token)):
            if token[:cut] in ranks and token[cut:] in ranks:
                merges.append(f"{written[token[:cut]]} {written[token[cut:]]}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(SPLIT)
    writer.add_token_list([texts[number][0] for number in range(len(texts))])
    writer.add_token_types([texts[number][1] for number in range(len(texts))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(special[FIRST])
    writer.add_add_bos_token(True)
    # Readers of GGUF want a token that ends a text. The one that fills it comes next to that.
    writer.add_eos_token_id(special[FILLING])
    writer.add_pad_token_id(special[FILLING])
    return len(texts)


def write(path, config, weights, tokenizer, matrices, padding):
    """Writes a model with the members of NanoGuard's `ModelConfig`, and its weights by their names there."""
    writer = gguf.GGUFWriter(path, "nanoguard")
    if config["n_kv_head"] != config["n_head"]:
        raise ValueError("keys and values have other heads than queries")
    weights = dict(weights)
    width, layers = config["n_embd"], config["n_layer"]
    if config["num_classes"] != len(LABELS):
        raise ValueError("it has other labels")
    writer.add_context_length(config["sequence_len"])
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(config["n_head"])
    writer.add_rope_freq_base(10000.0)
    writer.add_uint32("nanoguard.padding", padding)
    writer.add_array("nanoguard.classifier.output_labels", LABELS)
    vocabulary = write_tokenizer(writer, *tokenizer)
    if vocabulary != config["vocab_size"]:
        raise ValueError("the tokenizer has another number of tokens than the model")

    def add(name, numbers, kind):
        if kind != gguf.GGMLQuantizationType.F32:
            numbers = gguf.quants.quantize(numpy.ascontiguousarray(numbers, "<f4"), kind)
            writer.add_tensor(name, numbers, raw_dtype=kind)
        else:
            writer.add_tensor(name, numpy.ascontiguousarray(numbers, "<f4"))

    add("token_embd.weight", weights.pop("transformer.wte.weight"), matrices)
    for layer in range(layers):
        for theirs, ours in LAYER.items():
            add(f"blk.{layer}.{ours}.weight", weights.pop(f"transformer.h.{layer}.{theirs}.weight"), matrices)
    for theirs, ours in VECTORS.items():
        add(ours, weights.pop(theirs), gguf.GGMLQuantizationType.F32)
    if weights:
        raise ValueError(f"weights that are not understood: {', '.join(weights)}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel")
    parser.add_argument("out")
    parser.add_argument("--weights", choices=TYPES, default="q8_0")
    parser.add_argument("--padding", type=int, default=512)
    arguments = parser.parse_args()
    with open(arguments.wheel, "rb") as file:
        wheel = file.read()
    found = hashlib.sha256(wheel).hexdigest()
    if found != WHEEL_SHA256:
        sys.exit(f"{arguments.wheel}: expected the wheel with SHA-256 {WHEEL_SHA256}, found {found}")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        model = read_weights(archive.read("nanoguard/assets/model.pt"))
        encoding = read_tokenizer(archive.read("nanoguard/assets/tokenizer.pkl"))
    tokenizer = (encoding.pattern, encoding.ranks, encoding.special)
    kind = TYPES[arguments.weights]
    write(arguments.out, model["config"], model["model_state_dict"], tokenizer, kind, arguments.padding)


if __name__ == "__main__":
    main()
