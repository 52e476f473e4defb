"""Which modules get an adapter, of which rank and scale, and LoRA+'s rates, against PEFT, live and in f32, on tiny random
models: regular expressions, layers, exclusions, patterns, rsLoRA; files both ways. LEMA is the binary."""
import pathlib
import tempfile
import unittest

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file

from torch_models import MODELS, lema, logits, metrics, random_rows, randomised, save, summed_loss, train, trained, write_rows

STEPS, LR = 10, 2e-3
# Name: (model, LoraConfig's options, the same as lema's).
CASES = {
    "rslora": ("llama_gqa", {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
               {"rslora": True, "targets": ["q_proj", "down_proj"]}),
    "regex": ("llama_tied", {"target_modules": r".*\.(?:[qv]_proj|1\.mlp\.\w+_proj)"},
              {"targets": r".*\.(?:[qv]_proj|1\.mlp\.\w+_proj)"}),
    "exclude": ("llama_gqa", {"target_modules": "all-linear", "exclude_modules": r".*mlp.*|.*\.1\..*|lm_head"},
                {"targets": "all-linear", "exclude_modules": r".*mlp.*|.*\.1\..*"}),
    "layers": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "layers_to_transform": [0, 2]},
               {"targets": ["c_attn", "c_fc"], "layers": [0, "last:1"]}),
    "patterns": ("llama_rope3",
                 {"target_modules": ["q_proj", "v_proj", "up_proj"], "use_rslora": True,
                  "rank_pattern": {"layers.1.self_attn.q_proj": 7, "q_proj": 2, r"layers\.[02]\.mlp\..*": 3},
                  "alpha_pattern": {"up_proj": 1.5, r"2\.self_attn\.v_proj": 20}},
                 {"targets": ["q_proj", "v_proj", "up_proj"], "rslora": True,
                  "rank_pattern": {"layers.1.self_attn.q_proj": 7, "q_proj": 2, r"layers\.[02]\.mlp\..*": 3},
                  "alpha_pattern": {"up_proj": 1.5, r"2\.self_attn\.v_proj": 20}}),
}


def parameters_of(peft):
    return {name.replace(".default", ""): p for name, p in peft.named_parameters() if "lora_" in name}


def relative_error(got, want):
    return float((got - want).norm() / want.norm())


class Rules(unittest.TestCase):
    def prepare(self, folder, name, options):
        """The folder with base model, random PEFT adapter and rows; returns the PEFT model and the rows."""
        torch.manual_seed(1)
        model = randomised(MODELS[name][0](), 2)
        save(model, folder / "model")
        peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=10, task_type="CAUSAL_LM",
                                                fan_in_fan_out=name.startswith("gpt2"), **options))
        generator = torch.Generator().manual_seed(0)
        for parameter in parameters_of(peft).values():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        peft.save_pretrained(folder / "adapter", save_embedding_layers=False)
        rows = random_rows(4, 3)
        write_rows(folder / "rows.jsonl", rows)
        return peft, rows

    def run_lema(self, folder, run, **lora):
        train({"model": str(folder / "model"), "output_dir": str(folder / run), "compute": "f32",
               "data": {"train": str(folder / "rows.jsonl"), "format": "tokens", "shuffle": False},
               "lora": {"rank": 4, "alpha": 10, **lora}, "optimizer": {"lr": LR, "clip": 0},
               "schedule": {"name": "constant", "warmup": 0}, "train": {"max_steps": STEPS, "batch_size": 4},
               "checkpoint": {"every_steps": 0}}, folder)
        return folder / run / f"checkpoint-{STEPS:06}"

    def losses_of(self, peft, rows, optimizer):
        losses, total = [], sum(trained(row) for row in rows)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = sum(summed_loss(peft, row)[0] for row in rows) / total
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def compare(self, folder, run, checkpoint, peft, want):
        got = [line["loss"] for line in metrics(folder / run)]
        self.assertEqual(len(got), STEPS)
        self.assertLess(max(abs(g - w) / w for g, w in zip(got, want, strict=True)), 1e-4)
        tensors, parameters = load_file(checkpoint / "adapter_model.safetensors"), parameters_of(peft)
        self.assertEqual(set(tensors), set(parameters))
        for name, parameter in parameters.items():
            self.assertLess(relative_error(tensors[name], parameter.detach()), 1e-3, name)

    def test_ten_steps_from_peft_and_back(self):
        for case, (name, options, lora) in CASES.items():
            with self.subTest(case=case), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                peft, rows = self.prepare(folder, name, options)
                # Forward, PEFT's folder applied as it is.
                with torch.no_grad():
                    want = [peft(torch.tensor([row["input_ids"]])).logits[0] for row in rows]
                got = logits(folder / "model", folder / "rows.jsonl", folder / "logits.safetensors", "--adapter",
                             folder / "adapter")
                for g, w in zip(got, want, strict=True):
                    self.assertLess(float((g - w).abs().max()), 1e-4)
                lema("merge", "--model", folder / "model", "--adapter", folder / "adapter", "--output", folder / "merged",
                     "--verify")

                checkpoint = self.run_lema(folder, "run", init_from=str(folder / "adapter"), **lora)
                optimizer = torch.optim.AdamW(parameters_of(peft).values(), lr=LR, weight_decay=0)
                self.compare(folder, "run", checkpoint, peft, self.losses_of(peft, rows, optimizer))

                # And back: PEFT reads the trained adapter from its config alone, with the same modules and scales.
                base = type(peft.get_base_model()).from_pretrained(folder / "model")
                loaded = PeftModel.from_pretrained(base, checkpoint).eval()
                self.assertEqual(set(parameters_of(loaded)), set(parameters_of(peft)))
                got = logits(folder / "model", folder / "rows.jsonl", folder / "after.safetensors", "--adapter", checkpoint)
                with torch.no_grad():
                    for g, row in zip(got, rows, strict=True):
                        w = loaded(torch.tensor([row["input_ids"]])).logits[0]
                        self.assertLess(float((g - w).abs().max()), 1e-4)

    def test_loraplus(self):
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            peft, rows = self.prepare(folder, "llama_gqa", {"target_modules": ["q_proj", "up_proj"]})
            checkpoint = self.run_lema(folder, "run", init_from=str(folder / "adapter"), targets=["q_proj", "up_proj"],
                                       plus_ratio=8)
            optimizer = create_loraplus_optimizer(peft, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=8)
            self.compare(folder, "run", checkpoint, peft, self.losses_of(peft, rows, optimizer))

    def test_what_is_not_applied_is_refused_by_name(self):
        for options, said in (({"use_dora": True, "target_modules": ["q_proj"]}, "use_dora"),
                              ({"target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens"),
                              ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save")):
            with self.subTest(said=said), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                self.prepare(folder, "llama_gqa", options)
                for command in (("merge", "--output", folder / "merged"),
                                ("eval", "--data", folder / "rows.jsonl", "--format", "tokens", "--task", "loss")):
                    done = lema(*command, "--model", folder / "model", "--adapter", folder / "adapter", check=False)
                    self.assertEqual(done.returncode, 3, done.stderr)
                    self.assertIn(said, done.stderr)


if __name__ == "__main__":
    unittest.main()
