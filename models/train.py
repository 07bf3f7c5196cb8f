#!/usr/bin/env python3
"""Trains the demo model on a processor and writes it as GGUF with Q8_0 weights.

usage: train.py SECONDS OUT.gguf

Needs torch, tokenizers, gguf and numpy from PyPI. THREADS in the environment sets the processor threads (default 2).
"""

import json
import math
import os
import random
import sys
import time

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from corpus import chats

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_WIDTH, FEED_FORWARD = 256, 6, 8, 4, 32, 512
MAX_VOCABULARY, CONTEXT, TRAINED_LENGTH, BATCH = 4096, 512, 256, 8
ROPE_BASE, EPSILON, LEARNING_RATE, WARM_UP_STEPS = 10000.0, 1e-5, 3e-3, 60
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return F.rms_norm(x, (WIDTH,), self.weight, EPSILON)


def rotations():
    frequencies = 1.0 / (ROPE_BASE ** (torch.arange(0, HEAD_WIDTH, 2).float() / HEAD_WIDTH))
    angles = torch.outer(torch.arange(CONTEXT).float(), frequencies)
    return angles.cos(), angles.sin()


COSINES, SINES = rotations()


def rotate(x):
    """Neighbouring numbers form a pair: GGUF's convention for `llama`, so the export permutes nothing."""
    length = x.shape[2]
    cosines, sines = COSINES[:length], SINES[:length]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), -1).flatten(-2)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.attn_q = linear(WIDTH, HEADS * HEAD_WIDTH)
        self.attn_k = linear(WIDTH, KV_HEADS * HEAD_WIDTH)
        self.attn_v = linear(WIDTH, KV_HEADS * HEAD_WIDTH)
        self.attn_output = linear(HEADS * HEAD_WIDTH, WIDTH)
        self.ffn_gate, self.ffn_up = linear(WIDTH, FEED_FORWARD), linear(WIDTH, FEED_FORWARD)
        self.ffn_down = linear(FEED_FORWARD, WIDTH)

    def forward(self, x):
        rows, length, _ = x.shape
        h = self.attn_norm(x)
        q, k, v = (
            f(h).view(rows, length, -1, HEAD_WIDTH).transpose(1, 2) for f in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = rotate(q.float()).to(v.dtype), rotate(k.float()).to(v.dtype)
        k, v = (part.repeat_interleave(HEADS // KV_HEADS, 1) for part in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_output(attended.transpose(1, 2).reshape(rows, length, HEADS * HEAD_WIDTH))
        h = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Model(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output_norm = Norm()
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * LAYERS) if into_residual else 1))

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.output_norm(x), self.embedding.weight)


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def batch(tokens, rows):
    starts = np.random.randint(0, len(tokens) - TRAINED_LENGTH - 1, rows)
    windows = np.stack([tokens[start : start + TRAINED_LENGTH + 1] for start in starts]).astype(np.int64)
    windows = torch.from_numpy(windows)
    return windows[:, :-1], windows[:, 1:]


def loss_of(model, inputs, targets):
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(inputs)
    return F.cross_entropy(scores.float().flatten(0, 1), targets.reshape(-1))


@torch.no_grad()
def validation_loss(model, tokens):
    return float(np.mean([loss_of(model, *batch(tokens, 16)).item() for _ in range(6)]))


def train(model, tokens, seconds):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    begun, step = time.monotonic(), 0
    while (done := (time.monotonic() - begun) / seconds) < 1:
        decay = 0.5 * (1 + math.cos(math.pi * done)) * 0.95 + 0.05
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARM_UP_STEPS) * decay
        loss = loss_of(model, *batch(tokens, BATCH))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 500 == 0:
            print(f"step {step}, {done:.0%}, loss {loss.item():.3f}", flush=True)


def export(model, tokenizer, path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-chat")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_WIDTH)
    writer.add_value_length(HEAD_WIDTH)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(tokenizer.get_vocab_size())
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    export_tokenizer(writer, tokenizer)
    q8_0 = gguf.GGMLQuantizationType.Q8_0

    def add(name, parameter):
        values = parameter.detach().float().numpy()
        if values.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", model.embedding.weight)
    add("output_norm.weight", model.output_norm.weight)
    for index, block in enumerate(model.blocks):
        for name, module in block.named_children():
            add(f"blk.{index}.{name}.weight", module.weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export_tokenizer(writer, tokenizer):
    description = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(description["vocab"], key=description["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def main(seconds, path):
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    texts = [chat + "<|endoftext|>" for chat in chats(60000)]
    held_out = len(texts) // 50
    tokenizer = train_tokenizer(texts[held_out:])

    def encode(part):
        return np.concatenate([np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch(part)])

    model = Model(tokenizer.get_vocab_size())
    train(model, encode(texts[held_out:]), seconds)
    print(f"validation perplexity {math.exp(validation_loss(model, encode(texts[:held_out]))):.2f}")
    export(model, tokenizer, path)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
