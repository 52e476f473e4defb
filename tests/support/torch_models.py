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
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tiny_folder import byte_tokenizer

V = 263
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LLAMA_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2_LINEARS = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]


def llama(**options):
    return LlamaForCausalLM(LlamaConfig(**{**dict(
        vocab_size=V, hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=256), **options}))


def gpt2(**options):
    return GPT2LMHeadModel(GPT2Config(**{**dict(
        vocab_size=V, n_embd=40, n_layer=3, n_head=4, n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=None, eos_token_id=256), **options}))


MODELS = {
    "llama_gqa": (llama, LLAMA_LINEARS),
    "llama_tied": (lambda: llama(tie_word_embeddings=True, num_key_value_heads=6), LLAMA_LINEARS),
    "llama_rope3": (lambda: llama(rope_parameters=LLAMA3_ROPE), LLAMA_LINEARS),
    "llama_biases": (lambda: llama(attention_bias=True, mlp_bias=True, head_dim=10), LLAMA_LINEARS),
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


def summed_loss(model, row):
    """Sum of the losses of a row's trained tokens, and their number."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
    logits = model(input_ids=ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"), \
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
