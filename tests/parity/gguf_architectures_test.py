"""Models of every architecture that `lema convert` reads from GGUF: tiny random transformers models are written into GGUF
files by the names of the `gguf` package and llama.cpp's row orders, converted, and compared: every tensor bit for bit with
the model, the logits with the model's, and, where transformers' own GGUF reader knows the architecture's settings, with
what it loads from the same file. Rows reach beyond windows and beyond the pretraining length of longrope."""
import math
import os
import pathlib
import sys
import tempfile
import unittest

os.environ["HF_HUB_OFFLINE"] = "1"
if not os.environ.get("LEMA"):
    print("skipped: LEMA names no binary")
    sys.exit(77)

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gguf_files import CONTROL, NORMAL, Vocabulary
from tiny_folder import byte_tokenizer
from torch_models import LLAMA3_ROPE, MODELS, lema, llama, logits, phi3, qwen2, qwen3, random_rows, randomised, \
    write_rows

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2,
                 "qwen3": gguf.MODEL_ARCH.QWEN3, "phi3": gguf.MODEL_ARCH.PHI3, "gpt2": gguf.MODEL_ARCH.GPT2}


def vocabulary():
    document = byte_tokenizer()
    by_id = {i: t for t, i in document["model"]["vocab"].items()} | {t["id"]: t["content"]
                                                                     for t in document["added_tokens"]}
    added = {t["id"] for t in document["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]
    return Vocabulary([by_id[i] for i in range(len(by_id))] + ["he"], merges + ["h e"],
                      types=[CONTROL if i in added else NORMAL for i in range(len(by_id) + 1)], eos=256, pad=256, add_bos=False)


def swapped_halves(tensor, heads):
    """Rows of q or k as llama.cpp's converter lays them: the halves of each head become pairs."""
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def llama3_factors(rope, dim):
    out = []
    for i in range(0, dim, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = (rope["original_max_position_embeddings"] / wave - low) / (high - low)
        out.append(1 / ((1 - min(max(smooth, 0), 1)) / rope["factor"] + min(max(smooth, 0), 1)))
    return np.array(out, dtype=np.float32)


def write_rope(writer, config, head_dim):
    rope = config.rope_parameters
    dim = int(head_dim * rope.get("partial_rotary_factor", 1))
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope, dim))
    elif kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif kind == "longrope":
        original = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
        ratio = config.max_position_embeddings / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(ratio) / math.log(original)))
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], dtype=np.float32))


def write_gguf(path, model):
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    is_gpt2 = config.model_type == "gpt2"
    heads = config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    if is_gpt2:
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        if head_dim * heads != config.hidden_size:
            writer.add_key_length(head_dim)
            writer.add_value_length(head_dim)
        write_rope(writer, config, head_dim)
        if config.model_type in ("mistral", "phi3") and config.sliding_window:
            writer.add_sliding_window(config.sliding_window)
    vocabulary().write(writer)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if architecture == gguf.MODEL_ARCH.LLAMA and ".q_proj." in name:
            values = swapped_halves(values, heads)
        if architecture == gguf.MODEL_ARCH.LLAMA and ".k_proj." in name:
            values = swapped_halves(values, config.num_key_value_heads)
        if is_gpt2 and values.ndim == 2 and ".h." in name:
            values = values.T
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        writer.add_tensor(found, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# Which of the models of torch_models a GGUF file can hold.
BUILDS = {name: MODELS[name][0] for name in (
    "llama_gqa", "llama_tied", "llama_biases", "llama_linear", "llama_yarn", "mistral", "qwen2", "qwen3", "phi3",
    "phi3_longrope", "gpt2", "gpt2_untied")}
# Heads wide enough that some factors of llama3 lie between the two bounds, as those of all published models do.
BUILDS["llama_rope3"] = lambda: llama(rope_parameters=LLAMA3_ROPE, head_dim=64)
# Settings that transformers' reader of GGUF knows: it takes the class's default for the head size of Qwen3, and neither
# windows nor RoPE scaling. GPT-2 is not here: there it takes the number of tokens for that of the embedding's rows, and the
# rows of these models are more.
KNOWN = {"llama": llama, "qwen2": qwen2, "qwen3": lambda: qwen3(head_dim=128), "phi3": lambda: phi3(sliding_window=None)}


class Architectures(unittest.TestCase):
    def check(self, model, folder, reference=None):
        source = write_gguf(folder / "model.gguf", model)
        lema("convert", source, folder / "converted", "--dtype", "f32")
        ours = load_file(folder / "converted" / "model.safetensors")
        state = model.state_dict()
        expected = {name for name in state if not (name == "lm_head.weight" and model.config.tie_word_embeddings)}
        self.assertEqual(set(ours), expected)
        for name, tensor in ours.items():
            self.assertTrue(torch.equal(tensor, state[name]), name)
        rows = random_rows(4, 6, longest=100)
        data = write_rows(folder / "rows.jsonl", rows)
        reference = reference(source) if reference else model
        worst = 0
        for got, row in zip(logits(folder / "converted", data, folder / "logits.safetensors"), rows, strict=True):
            with torch.no_grad():
                want = reference(torch.tensor([row["input_ids"]])).logits[0]
            error = float((got - want).abs().max())
            self.assertLess(error, 1e-4)
            worst = max(worst, error)
        return worst, len(ours)

    def test_tensors_and_logits_are_the_models(self):
        for name, build in BUILDS.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                worst, count = self.check(randomised(build(), 5), pathlib.Path(folder))
                print(f"{name}: {count} tensors bit-equal, logits within {worst:.1e}")

    def test_logits_are_those_of_transformers_reading_the_same_file(self):
        load = lambda source: AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name,
                                                                  dtype=torch.float32).eval()
        for name, build in KNOWN.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                worst, _ = self.check(randomised(build(), 7), pathlib.Path(folder), load)
                print(f"{name} against from_pretrained(gguf_file=...): logits within {worst:.1e}")


if __name__ == "__main__":
    unittest.main()
