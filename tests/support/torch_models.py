"""Tiny random models, adapters and token rows for the live parity tests of training: folders that transformers saved, so
that lema reads the original files."""
import json
import pathlib
import random
import subprocess
import os

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, \
    Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tiny_folder import byte_tokenizer

V = 263
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32}
ORIGINAL = 20  # pretraining length of the longrope models, base length of the dynamic ones: rows lie on both sides of it
LLAMA_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PHI3_LINEARS = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
GPT2_LINEARS = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]


def llama_like(config, model, **options):
    return model(config(**{**dict(
        vocab_size=V, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=256, pad_token_id=None), **options}))


def llama(**options):
    return llama_like(LlamaConfig, LlamaForCausalLM, **options)


def mistral(**options):
    return llama_like(MistralConfig, MistralForCausalLM, **options)


def qwen2(**options):
    return llama_like(Qwen2Config, Qwen2ForCausalLM, **options)


def qwen3(**options):
    return llama_like(Qwen3Config, Qwen3ForCausalLM, **{"head_dim": 10, **options})


def phi3(**options):
    return llama_like(Phi3Config, Phi3ForCausalLM, **options)


def rope(kind, **settings):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


def longrope(pairs, **settings):
    return rope("longrope", short_factor=[1 + 0.1 * i for i in range(pairs)], long_factor=[2 + 0.7 * i for i in range(pairs)],
                **settings)


def gpt2(**options):
    return GPT2LMHeadModel(GPT2Config(**{**dict(
        vocab_size=V, n_embd=40, n_layer=3, n_head=4, n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=None, eos_token_id=256), **options}))


MODELS = {
    "llama_gqa": (llama, LLAMA_LINEARS),
    "llama_tied": (lambda: llama(tie_word_embeddings=True, num_key_value_heads=6), LLAMA_LINEARS),
    "llama_rope3": (lambda: llama(rope_parameters=LLAMA3_ROPE), LLAMA_LINEARS),
    "llama_biases": (lambda: llama(attention_bias=True, mlp_bias=True, head_dim=10), LLAMA_LINEARS),
    "llama_linear": (lambda: llama(**rope("linear", factor=4.0)), LLAMA_LINEARS),
    "llama_dynamic": (lambda: llama(**rope("dynamic", factor=6.0), max_position_embeddings=ORIGINAL), LLAMA_LINEARS),
    "llama_yarn": (lambda: llama(rope_parameters=YARN_ROPE), LLAMA_LINEARS),
    "llama_yarn_options": (lambda: llama(rope_parameters={**YARN_ROPE, "mscale": 0.7, "mscale_all_dim": 1.2,
                                                          "beta_fast": 16, "beta_slow": 2, "truncate": False},
                                         head_dim=32), LLAMA_LINEARS),
    "llama_longrope": (lambda: llama(**longrope(4, factor=5.0, original_max_position_embeddings=ORIGINAL)), LLAMA_LINEARS),
    # Said aloud: the factor on cosines and sines, and at the top level a length that wins over the dictionary's.
    "llama_yarn_said": (lambda: llama(rope_parameters={**YARN_ROPE, "attention_factor": 1.3},
                                      original_max_position_embeddings=ORIGINAL), LLAMA_LINEARS),
    "qwen2_longrope_said": (lambda: qwen2(**longrope(4, attention_factor=0.8, original_max_position_embeddings=90),
                                          original_max_position_embeddings=ORIGINAL), LLAMA_LINEARS),
    "mistral": (lambda: mistral(sliding_window=7), LLAMA_LINEARS),
    "mistral_without_window": (lambda: mistral(sliding_window=None, head_dim=12), LLAMA_LINEARS),
    "qwen2": (lambda: qwen2(tie_word_embeddings=True), LLAMA_LINEARS),
    "qwen2_windows": (lambda: qwen2(use_sliding_window=True, sliding_window=7, max_window_layers=1), LLAMA_LINEARS),
    "qwen3": (qwen3, LLAMA_LINEARS),
    "qwen3_options": (lambda: qwen3(attention_bias=True, use_sliding_window=True, sliding_window=9, rope_parameters=YARN_ROPE,
                                    layer_types=["sliding_attention", "full_attention", "sliding_attention"]), LLAMA_LINEARS),
    "phi3": (lambda: phi3(sliding_window=15), PHI3_LINEARS),
    "phi3_longrope": (lambda: phi3(**longrope(3, partial_rotary_factor=0.75), original_max_position_embeddings=ORIGINAL,
                                   tie_word_embeddings=True), PHI3_LINEARS),
    "gpt2": (gpt2, GPT2_LINEARS),
    "gpt2_untied": (lambda: gpt2(tie_word_embeddings=False), GPT2_LINEARS),
}


def randomised(model, seed):
    """No weight is left at its initial zero or one, so that a swapped or dropped tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    return folder


def random_rows(count, seed, longest=40):
    """Rows of ids with labels: some positions are not trained."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        ids = [rng.randrange(V) for _ in range(rng.randrange(2, longest))]
        labels = [i if rng.random() < 0.7 else -100 for i in ids]
        labels[-1] = ids[-1]
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def with_adapter(model, targets, rank=4, alpha=10, seed=0, dropout=0.0):
    """A PEFT model whose A and B are both random, so that every gradient is non-zero."""
    peft = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=dropout,
                                            task_type="CAUSAL_LM", fan_in_fan_out="c_fc" in targets))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return peft


def forget(model):
    """Dynamic RoPE remembers the longest row so far; after this the next one is the first that the model sees."""
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            module.max_seq_len_cached, module.inv_freq = module.original_max_seq_len, module.original_inv_freq.clone()
    return model


def alone(model, row):
    """Logits of a row, rotated by its own length."""
    return forget(model)(input_ids=torch.tensor([row["input_ids"]])).logits[0]


def summed_loss(model, row):
    """Sum of the losses of a row's trained tokens, and their number."""
    labels = torch.tensor(row["labels"])[1:]
    return torch.nn.functional.cross_entropy(alone(model, row)[:-1], labels, ignore_index=-100, reduction="sum"), \
        int((labels != -100).sum())


def trained(row):
    return sum(label != -100 for label in row["labels"][1:])


def lema(*arguments, check=True):
    result = subprocess.run([os.environ["LEMA"], *map(str, arguments)], capture_output=True, text=True)
    if check and result.returncode:
        raise AssertionError(f"lema {arguments}: exit {result.returncode}\n{result.stderr}")
    return result


def train(config, folder):
    path = pathlib.Path(folder) / "run_config.json"
    path.write_text(json.dumps(config))
    return lema("train", "--config", path)


def metrics(run):
    return [json.loads(line) for line in (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()]


def logits(folder, data, output, *options):
    """lema's logits, a list of (T, V) in the order of the rows."""
    lema("eval", "--model", folder, "--data", data, "--format", "tokens", "--task", "logits", "--compute", "f32",
         "--output", output, *options)
    tensors = load_file(output)
    return [tensors[f"line_{line + 1}"] for line in range(len(tensors))]
