"""Reads a GGUF file as a model of transformers: the file's weights as float32, on the processor, nothing rounded to fewer bits.

transformers has a reader of its own, which knows some architectures and not all of their settings. Those of GEMMA, PHI, MISTRAL and
EXPERTS are read here, setting by setting. Needs what requirements.txt names.
"""

import gguf
import numpy
import torch
import transformers

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_LAYER = LAYER | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
EXPERT_LAYERS = {
    "qwen3moe": LAYER | {"ffn_gate_inp": "mlp.gate"},
    "gpt-oss": LAYER
    | {"post_attention_norm": "post_attention_layernorm", "ffn_gate_inp": "mlp.router", "attn_sinks": "self_attn.sinks"},
}
PHI_LAYER = LAYER | {"ffn_up": "mlp.gate_up_proj"}
GEMMA = ("gemma2", "gemma3")
PHI = ("phi3",)
EXPERTS = ("qwen3moe", "gpt-oss")
# Files of `llama` are Mistral's when they have a window.
MISTRAL = ("llama", "mistral3")


class File:
    """The settings of a file, by the names that follow the architecture's."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.architecture = self.reader.fields["general.architecture"].contents()

    def get(self, name, default=None):
        field = self.reader.fields.get(f"{self.architecture}.{name}")
        return default if field is None else field.contents()

    def tensors(self):
        for tensor in self.reader.tensors:
            yield tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def rope(file):
    """The rotation of layers that see everything."""
    parameters = {"rope_type": "default", "rope_theta": file.get("rope.freq_base", 10000.0)}
    factor, kind = file.get("rope.scaling.factor"), file.get("rope.scaling.type")
    if kind == "yarn":
        parameters |= {
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": file.get("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": file.get("rope.scaling.yarn_beta_slow", 1.0),
            "original_max_position_embeddings": file.get("rope.scaling.original_context_length"),
        }
        log_multiplier = file.get("rope.scaling.yarn_log_multiplier", 0.0)
        if log_multiplier:
            parameters |= {"mscale": 1.0, "mscale_all_dim": log_multiplier}
    elif factor is not None:
        parameters |= {"rope_type": "linear", "factor": factor}
    return parameters


def configuration(file, vocabulary, vectors):
    """The model's configuration. `vectors` are the tensors that are no part of transformers' weights."""
    heads, width = file.get("attention.head_count"), file.get("embedding_length")
    head_width = file.get("attention.key_length", width // heads)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": file.get("feed_forward_length"),
        "num_hidden_layers": file.get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get("attention.head_count_kv", heads),
        "max_position_embeddings": file.get("context_length"),
        "rms_norm_eps": file.get("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope(file),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    window = file.get("attention.sliding_window") or None
    if file.architecture in GEMMA:
        settings |= {
            "head_dim": head_width,
            "query_pre_attn_scalar": head_width,
            "attn_logit_softcapping": file.get("attn_logit_softcapping"),
            "final_logit_softcapping": file.get("final_logit_softcapping"),
            "sliding_window": window,
        }
        if file.architecture == "gemma2":
            return transformers.Gemma2Config(**settings)
        local = {"rope_type": "default", "rope_theta": file.get("rope.freq_base_swa", 10000.0)}
        settings["rope_parameters"] = {"full_attention": rope(file), "sliding_attention": local}
        period = file.get("attention.sliding_window_pattern", 6)
        kinds = ["sliding_attention" if layer % period + 1 < period else "full_attention" for layer in range(settings["num_hidden_layers"])]
        return transformers.Gemma3TextConfig(layer_types=kinds, **settings)
    if file.architecture in PHI:
        original = file.get("rope.scaling.original_context_length", file.get("context_length"))
        rotated = file.get("rope.dimension_count", head_width) / head_width
        settings["rope_parameters"] |= {"partial_rotary_factor": rotated}
        if vectors:
            settings["rope_parameters"] |= {
                "rope_type": "longrope",
                "original_max_position_embeddings": original,
                "attention_factor": file.get("rope.scaling.attn_factor", 1.0),
                "short_factor": vectors["rope_factors_short.weight"].tolist(),
                "long_factor": vectors["rope_factors_long.weight"].tolist(),
            }
        return transformers.Phi3Config(sliding_window=window, original_max_position_embeddings=original, **settings)
    settings["head_dim"] = head_width
    if file.architecture in EXPERTS:
        inner = file.get("expert_feed_forward_length")
        settings |= {"num_experts_per_tok": file.get("expert_used_count")}
        if file.architecture == "qwen3moe":
            settings |= {"num_experts": file.get("expert_count"), "moe_intermediate_size": inner, "norm_topk_prob": True}
            return transformers.Qwen3MoeConfig(**settings)
        settings |= {"num_local_experts": file.get("expert_count"), "intermediate_size": inner}
        if settings["rope_parameters"]["rope_type"] == "yarn":
            settings["rope_parameters"] |= {"truncate": False}
        return transformers.GptOssConfig(sliding_window=window, **settings)
    if file.architecture == "mistral3":
        settings["rope_parameters"] |= {"llama_4_scaling_beta": file.get("attention.temperature_scale", 0.0)}
        return transformers.Ministral3Config(**settings)
    return transformers.MistralConfig(sliding_window=window, **settings)


def in_halves(weights, heads):
    """Rows of queries or keys as they are before a file's writer puts those that turn together next to each other."""
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def of_experts(architecture, parts):
    """The tensors of one layer's experts as transformers has them: gate and up are one."""
    gate, up, down = (parts[f"ffn_{part}_exps.weight"] for part in ("gate", "up", "down"))
    if architecture == "qwen3moe":
        return {"gate_up_proj": numpy.concatenate([gate, up], axis=1), "down_proj": down}
    turned = [part.swapaxes(1, 2) for part in (gate, up, down)]
    gate_bias, up_bias, down_bias = (parts[f"ffn_{part}_exps.bias"] for part in ("gate", "up", "down"))
    return {
        "gate_up_proj": numpy.stack(turned[:2], axis=-1).reshape(*turned[0].shape[:2], -1),
        "gate_up_proj_bias": numpy.stack([gate_bias, up_bias], axis=-1).reshape(len(gate_bias), -1),
        "down_proj": turned[2],
        "down_proj_bias": down_bias,
    }


def load(path):
    file = File(path)
    names = GEMMA_LAYER if file.architecture in GEMMA else PHI_LAYER if file.architecture in PHI else LAYER
    names = EXPERT_LAYERS.get(file.architecture, names)
    experts = {}
    heads = {"attn_q": file.get("attention.head_count"), "attn_k": file.get("attention.head_count_kv")}
    weights, vectors = {}, {}
    for name, numbers in file.tensors():
        if name.startswith("rope_"):
            vectors[name] = numbers
            continue
        if file.architecture in GEMMA and name.endswith("norm.weight"):
            numbers = numbers - 1
        if name.startswith("blk."):
            _, layer, part, kind = name.split(".")
            if part.endswith("_exps"):
                experts.setdefault(layer, {})[f"{part}.{kind}"] = numbers
                continue
            if file.architecture in MISTRAL and part in heads:
                numbers = in_halves(numbers, heads[part])
            name = f"model.layers.{layer}.{names[part]}" + ("" if part == "attn_sinks" else f".{kind}")
        else:
            part, kind = name.split(".")
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[part] + f".{kind}"
        weights[name] = torch.from_numpy(numpy.array(numbers, dtype=numpy.float32))
    for layer, parts in experts.items():
        for name, numbers in of_experts(file.architecture, parts).items():
            name = f"model.layers.{layer}.mlp.experts.{name}"
            weights[name] = torch.from_numpy(numpy.array(numbers, dtype=numpy.float32))
    is_tied = "lm_head.weight" not in weights
    if is_tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    config = configuration(file, len(weights["lm_head.weight"]), vectors)
    config.tie_word_embeddings = is_tied
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return model.eval()


def scores(model, tokens):
    with torch.inference_mode():
        found = model(torch.tensor(tokens)).logits
    assert found.dtype == torch.float32
    return found.contiguous().numpy()
