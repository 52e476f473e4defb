"""Logits against transformers, live, in f32: tiny random models of every built kind, with and without an adapter, merged or
not, and the real SmolLM2-135M against transformers loading the same GGUF (LEMA_GGUF names the file). LEMA is the binary."""
import json
import os
import pathlib
import tempfile
import unittest

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from torch_models import MODELS, alone, lema, logits, random_rows, randomised, save, with_adapter, write_rows


class Tiny(unittest.TestCase):
    def difference(self, got, want):
        errors = [float((g - w).abs().max()) for g, w in zip(got, want, strict=True)]
        for error in errors:  # max() may drop a NaN
            self.assertLess(error, 1e-4)
        return max(errors)

    def test_every_kind(self):
        for name, (build, targets) in MODELS.items():
            with self.subTest(model=name), tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                torch.manual_seed(4)
                model = randomised(build(), 5)
                base = save(model, folder / "model")
                rows = random_rows(6, 6, longest=100)
                data = write_rows(folder / "rows.jsonl", rows)
                lema("convert", base, folder / "converted")
                with torch.no_grad():
                    want = [alone(model, row) for row in rows]
                errors = [self.difference(logits(source, data, folder / f"{i}.safetensors"), want)
                          for i, source in enumerate((base, folder / "converted"))]
                peft = with_adapter(model, targets).eval()
                peft.save_pretrained(folder / "adapter")
                with torch.no_grad():
                    want = [alone(peft, row) for row in rows]
                got = logits(base, data, folder / "adapter.safetensors", "--adapter", folder / "adapter")
                errors.append(self.difference(got, want))
                print(f"{name}: logits within {max(errors):.1e} of {float(max(w.abs().max() for w in want)):.1f}")

    def test_a_head_of_its_own_beside_a_tied_embedding(self):
        """Untied, as transformers loads it, whatever config.json says; converted and merged folders keep it."""
        for name in ("llama_tied", "gpt2"):
            with self.subTest(model=name), tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                torch.manual_seed(4)
                base = save(randomised(MODELS[name][0](), 5), folder / "model")
                tensors = load_file(base / "model.safetensors")
                embed = next(t for tensor, t in tensors.items() if tensor.endswith(("embed_tokens.weight", "wte.weight")))
                tensors["lm_head.weight"] = embed + 0.1 * torch.randn(embed.shape)
                save_file(tensors, base / "model.safetensors", {"format": "pt"})
                rows = random_rows(4, 6)
                data = write_rows(folder / "rows.jsonl", rows)
                model = AutoModelForCausalLM.from_pretrained(base).eval()
                with torch.no_grad():
                    want = [alone(model, row) for row in rows]
                lema("convert", base, folder / "converted")
                for source in (base, folder / "converted"):
                    self.difference(logits(source, data, folder / f"{source.name}.safetensors"), want)
                peft = with_adapter(model, MODELS[name][1]).eval()
                peft.save_pretrained(folder / "adapter", save_embedding_layers=False)
                lema("merge", "--model", base, "--adapter", folder / "adapter", "--output", folder / "merged")
                merged = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
                with torch.no_grad():
                    want = [alone(peft, row) for row in rows]
                    self.difference([alone(merged, row) for row in rows], want)
                self.difference(logits(folder / "merged", data, folder / "merged.safetensors"), want)

    def test_config_as_transformers_4_spelled_it(self):
        """RoPE at the top level and in rope_scaling, windows without layer_types, Phi-3's older names of longrope."""
        for name, kind in (("llama_rope3", None), ("llama_dynamic", None), ("llama_yarn_options", None),
                           ("llama_yarn_said", None), ("qwen2_longrope_said", None), ("qwen2_windows", None), ("phi3_longrope", "su"), ("phi3_longrope", "yarn")):
            with self.subTest(model=name, kind=kind), tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                torch.manual_seed(4)
                base = save(randomised(MODELS[name][0](), 5), folder / "model")
                config = json.loads((base / "config.json").read_text())
                rope = config.pop("rope_parameters")
                config.pop("layer_types", None)
                config["torch_dtype"] = config.pop("dtype")
                for key in ("rope_theta", "partial_rotary_factor"):
                    if key in rope:
                        config[key] = rope.pop(key)
                if "original_max_position_embeddings" in config:  # which wins over the dictionary's
                    rope["original_max_position_embeddings"] = 97
                rope["type"] = kind or rope.pop("rope_type")
                rope.pop("rope_type", None)
                config["rope_scaling"] = rope if rope["type"] != "default" else None
                (base / "config.json").write_text(json.dumps(config))
                rows = random_rows(4, 8, longest=60)
                model = AutoModelForCausalLM.from_pretrained(base).eval()
                with torch.no_grad():
                    want = [alone(model, row) for row in rows]
                got = logits(base, write_rows(folder / "rows.jsonl", rows), folder / "logits.safetensors")
                self.difference(got, want)


@unittest.skipUnless(os.environ.get("LEMA_GGUF"), "LEMA_GGUF names no file")
class Real(unittest.TestCase):
    def test_smollm2_against_transformers_on_the_gguf_itself(self):
        gguf = pathlib.Path(os.environ["LEMA_GGUF"])
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            lema("convert", gguf, folder / "model", "--dtype", "f32")
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            texts = ["The quick brown fox jumps over the lazy dog. " * 8, "def f(x):\n    return x * 2\n",
                     "Die Straße führt über den Fluss, été comme hiver."]
            rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts]
            data = write_rows(folder / "rows.jsonl", rows)
            got = logits(folder / "model", data, folder / "logits.safetensors")
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
            for g, row in zip(got, rows, strict=True):
                with torch.no_grad():
                    want = model(torch.tensor([row["input_ids"]])).logits[0]
                error = float((g - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt())
                print(f"{len(row['input_ids'])} tokens: relative RMS {error:.2e}")
                self.assertLess(error, 1e-4)


if __name__ == "__main__":
    unittest.main()
