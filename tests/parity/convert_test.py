"""Converted and merged folders in transformers and PEFT, live, on tiny random models of both families: every tensor of a
converted folder equals the original's, a merged folder's logits equal base and adapter's. LEMA is the binary."""
import json
import pathlib
import shutil
import tempfile
import unittest

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from torch_models import MODELS, lema, randomised

logging.disable_progress_bar()
logging.set_verbosity_error()
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


# Name -> (model, LoRA targets).
FAMILIES = {
    **{name: MODELS[name] for name in ("llama_gqa", "llama_tied", "llama_biases", "mistral", "qwen2", "qwen3",
                                       "phi3_longrope", "gpt2", "gpt2_untied")},
    "llama_head": (MODELS["llama_gqa"][0], ["o_proj", "lm_head"]),
}
TIED = ("llama_tied", "qwen2", "phi3_longrope", "gpt2")


def stored(folder):
    """Tensors as they lie in the folder's files."""
    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


class ModelCase(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_convert_"))
        self.addCleanup(shutil.rmtree, self.folder)
        torch.manual_seed(7)

    def save(self, name, dtype="f32", shard="50GB"):
        """A random model of a family, saved by transformers; returns its folder."""
        model = randomised(FAMILIES[name][0](), 1).to(TYPES[dtype])
        model.save_pretrained(self.folder / f"{name}-base", max_shard_size=shard)
        return self.folder / f"{name}-base"

    def logits(self, folder, adapter=None, dtype=torch.float32):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
        if adapter:
            model = PeftModel.from_pretrained(model, adapter)
        ids = torch.arange(40).reshape(2, 20) * 5
        with torch.no_grad():
            return model.eval()(ids).logits.float()


class Convert(ModelCase):
    def test_tensors_equal_the_original(self):
        for name in FAMILIES:
            for shard in ("50GB", "60KB"):
                with self.subTest(family=name, shard=shard):
                    base = self.save(name, shard=shard)
                    self.assertEqual((base / "model.safetensors").exists(), shard == "50GB")
                    out = self.folder / f"{name}-{shard}"
                    lema("convert", base, out)
                    reference = AutoModelForCausalLM.from_pretrained(base).state_dict()
                    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
                    self.assertEqual(list(reference), list(loaded))
                    for tensor in reference:
                        self.assertEqual(reference[tensor].dtype, loaded[tensor].dtype)
                        self.assertTrue(torch.equal(reference[tensor], loaded[tensor]), tensor)
                    self.assertEqual((base / "config.json").read_bytes(), (out / "config.json").read_bytes())
                    shutil.rmtree(base)

    def test_every_type_to_every_type(self):
        for source in TYPES:
            base = self.save("llama_biases", source)
            original = stored(base)
            for target in TYPES:
                with self.subTest(source=source, target=target):
                    out = self.folder / f"{source}-{target}"
                    lema("convert", base, out, "--dtype", target)
                    converted = stored(out)
                    self.assertEqual(set(converted), set(original))
                    for name, tensor in original.items():
                        self.assertTrue(torch.equal(tensor.to(TYPES[target]), converted[name]), name)
                    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
                    self.assertEqual(model.dtype, TYPES[target])
                    config = json.loads((base / "config.json").read_text())
                    config["dtype"] = str(TYPES[target]).removeprefix("torch.")
                    self.assertEqual(config, json.loads((out / "config.json").read_text()))

    def test_gpt2_as_published(self):
        """Names without prefix and mask buffers, as in the published gpt2 file."""
        base = self.save("gpt2")
        bare = {name.removeprefix("transformer."): tensor for name, tensor in stored(base).items()}
        buffers = {f"h.{block}.attn.bias": torch.tril(torch.ones(256, 256)).reshape(1, 1, 256, 256) for block in range(3)}
        save_file({**bare, **buffers}, base / "model.safetensors", {"format": "pt"})
        lema("convert", base, self.folder / "out")
        converted = stored(self.folder / "out")
        self.assertEqual(set(converted), set(bare))
        for name, tensor in bare.items():
            self.assertTrue(torch.equal(tensor, converted[name]), name)
        self.assertTrue(torch.equal(self.logits(base), self.logits(self.folder / "out")))


class Merge(ModelCase):
    def save_adapter(self, base, targets, rank=5, alpha=13):
        """A random adapter saved by PEFT; returns its folder."""
        model = AutoModelForCausalLM.from_pretrained(base)
        conv1d = "gpt2" in base.name and "lm_head" not in targets
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", lora_dropout=0.1,
                            fan_in_fan_out=conv1d)
        model = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
        # With a head among the targets PEFT would add the base's own head to the file.
        model.save_pretrained(self.folder / "adapter", save_embedding_layers=False)
        return self.folder / "adapter"

    def test_logits_equal_base_and_adapter(self):
        for name, (_, targets) in FAMILIES.items():
            base = self.save(name, shard="60KB")
            adapter = self.save_adapter(base, targets)
            expected, worst = self.logits(base, adapter), 0
            self.assertGreater((expected - self.logits(base)).abs().max().item(), 1e-2)
            for shard in ((), ("--shard-size", "30KB")):
                with self.subTest(family=name, shard=shard):
                    out = self.folder / "out"
                    stdout = lema("merge", "--model", base, "--adapter", adapter, "--output", out, "--verify",
                                  *shard).stdout
                    self.assertIn("verified", stdout)
                    self.assertEqual((out / "model.safetensors.index.json").exists(), bool(shard))
                    error = (self.logits(out) - expected).abs().max().item()
                    self.assertLessEqual(error, 1e-4)
                    worst = max(worst, error)
                    self.assertEqual("lm_head.weight" in stored(out), name not in TIED)
                    self.assertEqual((base / "config.json").read_bytes(), (out / "config.json").read_bytes())
                    shutil.rmtree(out)
            print(f"{name}: logits within {worst:.1e} of {expected.abs().max().item():.1f}")
            shutil.rmtree(base)
            shutil.rmtree(adapter)

    def test_weights_equal_peft_merge(self):
        for dtype in TYPES:
            with self.subTest(dtype=dtype):
                base = self.save("llama_gqa", dtype)
                adapter = self.save_adapter(base, FAMILIES["llama_gqa"][1])
                out = self.folder / f"merged-{dtype}"
                lema("merge", "--model", base, "--adapter", adapter, "--output", out, "--verify")
                model = AutoModelForCausalLM.from_pretrained(base, dtype=TYPES[dtype])
                reference = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
                merged = stored(out)
                self.assertEqual(set(merged), set(reference))
                unit = {"f32": 2 ** -23, "bf16": 2 ** -7, "f16": 2 ** -10}[dtype]  # a step of the last place
                for name, tensor in reference.items():
                    difference = (merged[name].double() - tensor.double()).abs()
                    bound = unit * tensor.double().abs() + 1e-6
                    self.assertTrue((difference <= bound).all(), f"{name}: {(difference / bound).max()}")
                shutil.rmtree(base)
                shutil.rmtree(adapter)

    def test_index_as_transformers_writes_it(self):
        base = self.save("llama_gqa")
        adapter = self.save_adapter(base, ["q_proj"])
        out = self.folder / "out"
        lema("merge", "--model", base, "--adapter", adapter, "--output", out, "--shard-size", "50KB")
        index = json.loads((out / "model.safetensors.index.json").read_text())
        shards = sorted(path.name for path in out.glob("*.safetensors"))
        self.assertEqual(shards, [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))])
        tensors = stored(out)
        self.assertEqual(index["metadata"]["total_size"], sum(t.nbytes for t in tensors.values()))
        self.assertEqual(set(index["weight_map"]), set(tensors))
        for shard in shards:
            with safe_open(out / shard, "pt") as file:
                held = list(file.keys())
                self.assertEqual(file.metadata()["format"], "pt")
            self.assertEqual(sorted(held), sorted(n for n, s in index["weight_map"].items() if s == shard))
            bytes_held = sum(tensors[name].nbytes for name in held)
            self.assertTrue(bytes_held <= 50_000 or len(held) == 1, shard)


if __name__ == "__main__":
    unittest.main(verbosity=2)
