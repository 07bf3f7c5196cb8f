#!/usr/bin/env python3
"""Writes architectures/NAME.gguf, tiny models of random weights, and architectures/NAME.txt: scores that the PyPI package
transformers computes of them. bench/engine/reference.py reads the files for transformers.

usage: architecture_vectors.py FOLDER      (needs what bench/engine/requirements.txt names)

The first line of a text has the prompt's tokens. Each further line has a position and the scores of every SCORED-th token after it.
"""

import math
import pathlib
import sys

import gguf
import numpy

sys.path.insert(0, str(pathlib.Path(__file__).parents[4] / "bench/engine"))
import reference

WIDTH, HEADS, KV_HEADS, HEAD, FEED_FORWARD, CONTEXT = 32, 4, 2, 8, 32, 128
SCORED, EVERY, LENGTH = 17, 4, 80
TEMPLATES = {
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{{ '<start_of_turn>model\\n' }}",
    "phi": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{{ '<|assistant|>\\n' }}",
    "mistral": "{{ bos_token }}{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}",
}
SPECIAL = {
    "gemma": ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
    "phi": ["<s>", "<|end|>", "<|user|>", "<|assistant|>"],
    "mistral": ["<s>", "</s>", "[INST]", "[/INST]"],
}
# Of Gemma: tokens that are text and stand by themselves.
WHITE_SPACE = ["\n", "\n\n", "  "]


def sentence_pieces(writer, kind):
    tokens = [*SPECIAL[kind], *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab", "\u2581ab"]
    types = [3] * 4 + [6] * 256 + [1] * 5
    if kind == "gemma":
        tokens += WHITE_SPACE
        types += [4] * len(WHITE_SPACE)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_add_space_prefix(kind != "gemma")
    return len(tokens)


def byte_pairs(writer, kind):
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = {byte: chr(byte) for byte in visible} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    tokens = [*SPECIAL[kind], *(letters[byte] for byte in range(256)), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 4 + [1] * 257)
    writer.add_token_merges(["a b"])
    return len(tokens)


class Model:
    def __init__(self, folder, name, architecture, kind, layers, head=HEAD):
        self.path = folder / f"{name}.gguf"
        self.random = numpy.random.default_rng(len(name) + layers)
        self.kind, self.layers, self.head = kind, layers, head
        self.writer = writer = gguf.GGUFWriter(self.path, architecture)
        writer.add_name(f"{name} of random weights")
        self.vocabulary = byte_pairs(writer, kind) if kind == "mistral" else sentence_pieces(writer, kind)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_add_bos_token(kind == "gemma")
        writer.add_chat_template(TEMPLATES[kind])
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(layers)
        writer.add_feed_forward_length(FEED_FORWARD)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-6)
        if head != WIDTH // HEADS:
            writer.add_key_length(head)
            writer.add_value_length(head)

    def matrix(self, name, rows, columns, size=1.5):
        numbers = self.random.normal(0, size / math.sqrt(columns), (rows, columns))
        self.writer.add_tensor(f"{name}.weight", numbers.astype(numpy.float16))

    def vector(self, name, length, middle=1.0):
        self.writer.add_tensor(f"{name}.weight", self.random.normal(middle, 0.2, length).astype(numpy.float32))

    def experts(self, name, biases):
        """Of one layer: four, of which a token takes two."""
        self.matrix(name("ffn_gate_inp"), 4, WIDTH)
        for part, rows, columns in [("gate", FEED_FORWARD, WIDTH), ("up", FEED_FORWARD, WIDTH), ("down", WIDTH, FEED_FORWARD)]:
            numbers = self.random.normal(0, 1.5 / math.sqrt(columns), (4, rows, columns))
            self.writer.add_tensor(name(f"ffn_{part}_exps.weight"), numbers.astype(numpy.float16))
            if biases:
                self.bias(name(f"ffn_{part}_exps"), (4, rows))
        if biases:
            self.bias(name("ffn_gate_inp"), 4)

    def bias(self, name, shape):
        self.writer.add_tensor(f"{name}.bias", self.random.normal(0, 0.3, shape).astype(numpy.float32))

    def tensors(self, joined=False, norms=("attn_norm", "ffn_norm"), head_norms=False, tied=False, experts=False, biases=False):
        self.matrix("token_embd", self.vocabulary, WIDTH)
        queries, keys = HEADS * self.head, KV_HEADS * self.head
        for layer in range(self.layers):
            name = f"blk.{layer}.".__add__
            for norm in norms:
                self.vector(name(norm), WIDTH)
            if joined:
                self.matrix(name("attn_qkv"), queries + 2 * keys, WIDTH)
                self.matrix(name("ffn_up"), 2 * FEED_FORWARD, WIDTH)
            else:
                for part, rows in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)]:
                    self.matrix(name(part), rows, WIDTH)
                for part in [] if experts else ["ffn_gate", "ffn_up"]:
                    self.matrix(name(part), FEED_FORWARD, WIDTH)
            if head_norms:
                self.vector(name("attn_q_norm"), self.head)
                self.vector(name("attn_k_norm"), self.head)
            self.matrix(name("attn_output"), WIDTH, queries)
            if experts:
                self.experts(name, biases)
            else:
                self.matrix(name("ffn_down"), WIDTH, FEED_FORWARD)
            if biases:
                for part, rows in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys), ("attn_output", WIDTH)]:
                    self.bias(name(part), rows)
                self.vector(name("attn_sinks"), HEADS)
        self.vector("output_norm", WIDTH)
        if not tied:
            self.matrix("output", self.vocabulary, WIDTH, 2.0)
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()

    def scores(self, name=None, length=LENGTH):
        tokens = numpy.random.default_rng(3).integers(4, self.vocabulary, length).tolist()
        found = reference.scores(reference.load(self.path), [tokens])[0]
        lines = [" ".join(map(str, tokens))]
        for position in range(EVERY - 1, length, EVERY):
            lines.append(" ".join([str(position), *(f"{score:.6f}" for score in found[position, ::SCORED])]))
        path = self.path.with_name(name or self.path.stem).with_suffix(".txt")
        path.write_text("\n".join(lines) + "\n")


def main(folder):
    gemma_norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")

    gemma2 = Model(folder, "gemma2", "gemma2", "gemma", 4, head=16)
    gemma2.writer.add_sliding_window(12)
    gemma2.writer.add_attn_logit_softcapping(2.0)
    gemma2.writer.add_final_logit_softcapping(3.0)
    gemma2.tensors(norms=gemma_norms, tied=True)
    gemma2.scores()

    gemma3 = Model(folder, "gemma3", "gemma3", "gemma", 7)
    gemma3.writer.add_sliding_window(12)
    gemma3.writer.add_rope_freq_base(1e6)
    gemma3.writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    gemma3.writer.add_rope_scaling_factor(8.0)
    gemma3.tensors(norms=gemma_norms, head_norms=True, tied=True)
    gemma3.scores()

    phi3 = Model(folder, "phi3", "phi3", "phi", 2)
    phi3.writer.add_sliding_window(24)
    phi3.writer.add_rope_dimension_count(6)
    phi3.writer.add_rope_freq_base(1e4)
    phi3.writer.add_rope_scaling_orig_ctx_len(32)
    phi3.writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(CONTEXT / 32) / math.log(32)))
    phi3.writer.add_tensor("rope_factors_short.weight", numpy.array([1.0, 1.1, 1.25], numpy.float32))
    phi3.writer.add_tensor("rope_factors_long.weight", numpy.array([1.0, 2.5, 4.0], numpy.float32))
    phi3.tensors(joined=True)
    phi3.scores()
    phi3.scores("phi3-short", 32)

    mistral3 = Model(folder, "mistral3", "mistral3", "mistral", 2)
    mistral3.writer.add_rope_freq_base(1e4)
    mistral3.writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    mistral3.writer.add_rope_scaling_factor(4.0)
    mistral3.writer.add_rope_scaling_orig_ctx_len(32)
    mistral3.writer.add_rope_scaling_yarn_beta_fast(4.0)
    mistral3.writer.add_rope_scaling_yarn_beta_slow(1.0)
    mistral3.writer.add_rope_scaling_yarn_log_mul(1.0)
    mistral3.writer.add_attn_temperature_scale(0.5)
    mistral3.tensors()
    mistral3.scores()

    for name in ["qwen3moe", "gpt-oss"]:
        model = Model(folder, name, name, "mistral", 2)
        model.writer.add_expert_count(4)
        model.writer.add_expert_used_count(2)
        model.writer.add_expert_feed_forward_length(FEED_FORWARD)
        model.writer.add_rope_freq_base(1e4)
        if name == "qwen3moe":
            model.tensors(experts=True, head_norms=True)
        else:
            model.writer.add_sliding_window(12)
            model.writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            model.writer.add_rope_scaling_factor(4.0)
            model.writer.add_rope_scaling_orig_ctx_len(32)
            model.tensors(experts=True, biases=True, norms=("attn_norm", "post_attention_norm"))
        model.scores()

    # Mistral before 2025: a window on every layer. And YaRN whose magnitude is not taken back.
    mistral = Model(folder, "mistral", "llama", "mistral", 2)
    mistral.writer.add_sliding_window(12)
    mistral.writer.add_rope_freq_base(1e4)
    mistral.writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    mistral.writer.add_rope_scaling_factor(4.0)
    mistral.writer.add_rope_scaling_orig_ctx_len(32)
    mistral.tensors()
    mistral.scores()


main(pathlib.Path(sys.argv[1]))
