"""The rules of adapters against PEFT, live and in f32, on tiny random models: regular expressions, layers, exclusions,
patterns, rsLoRA, DoRA, LoRA+. Forward, every gradient, ten steps, files both ways. LEMA is the binary."""
import pathlib
import tempfile
import unittest

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file

from torch_models import MODELS, lema, logits, metrics, random_rows, randomised, save, summed_loss, train, trained, write_rows

STEPS, LR = 10, 2e-3
torch.set_num_threads(1)  # the models are tiny
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
    "dora": ("llama_biases", {"use_dora": True, "target_modules": "all-linear"}, {"dora": True}),
    "dora_conv1d": ("gpt2", {"use_dora": True, "target_modules": ["c_attn", "c_fc"], "use_rslora": True,
                             "rank_pattern": {"c_fc": 7}},
                    {"dora": True, "targets": ["c_attn", "c_fc"], "rslora": True, "rank_pattern": {"c_fc": 7}}),
    "saved": ("llama_gqa", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
              {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    # Head and embedding are one matrix in these: each copy is trained by itself.
    "saved_tied_head": ("llama_tied", {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
                        {"targets": ["v_proj"], "modules_to_save": ["lm_head"]}),
    "saved_tied_table": ("gpt2", {"target_modules": ["c_fc"], "modules_to_save": ["wte"], "use_dora": True},
                         {"targets": ["c_fc"], "modules_to_save": ["wte"], "dora": True}),
}


def parameters_of(peft):
    """{saved name: parameter} in the model's order, which is that of lema's parameters."""
    names = {name: name.replace("magnitude_vector.default.weight", "magnitude_vector")
             .replace(".modules_to_save", "").replace(".default", "") for name, _ in peft.named_parameters()}
    return {names[name]: p for name, p in peft.named_parameters() if "lora_" in name or "modules_to_save" in name}


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
        for name, parameter in parameters_of(peft).items():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.data = noise if name.endswith(("_A.weight", "_B.weight")) else parameter.data + noise
        peft.save_pretrained(folder / "adapter", save_embedding_layers=False)
        rows = random_rows(4, 3)
        write_rows(folder / "rows.jsonl", rows)
        return peft, rows

    def run_lema(self, folder, run, **lora):
        train({"model": str(folder / "model"), "output_dir": str(folder / run), "compute": "f32",
               "data": {"train": str(folder / "rows.jsonl"), "format": "tokens", "shuffle": False},
               "lora": {"rank": 4, "alpha": 10, **lora}, "optimizer": {"lr": LR, "clip": 0},
               "schedule": {"name": "constant", "warmup": 0}, "train": {"max_steps": STEPS, "batch_size": 4},
               "checkpoint": {"every_steps": 1, "keep": STEPS}}, folder)
        return folder / run / f"checkpoint-{STEPS:06}"

    def losses_of(self, peft, rows, optimizer):
        """Of each step; the first step's gradients stay in self.gradients."""
        losses, total = [], sum(trained(row) for row in rows)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = sum(summed_loss(peft, row)[0] for row in rows) / total
            loss.backward()
            if not losses:
                self.gradients = {name: p.grad.clone() for name, p in parameters_of(peft).items()}
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
        # After one step from zero moments the first moment is (1 - beta1) times the gradient.
        moment = load_file(folder / run / "checkpoint-000001" / "state.safetensors")["moment1"] / (1 - 0.9)
        parts = moment.split([gradient.numel() for gradient in self.gradients.values()])
        for got, (name, want) in zip(parts, self.gradients.items(), strict=True):
            self.assertLess(relative_error(got.view(want.shape), want), 1e-4, name)

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
                done = lema("merge", "--model", folder / "model", "--adapter", folder / "adapter", "--output",
                            folder / "merged", "--verify", check=False)
                self.assertEqual(done.returncode, 3 if "tied" in case else 0, done.stderr)
                if "tied" in case:
                    self.assertIn("trained apart from the matrix that it shares", done.stderr)

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
            peft, rows = self.prepare(folder, "llama_gqa", {"target_modules": ["q_proj", "up_proj"], "use_dora": True})
            checkpoint = self.run_lema(folder, "run", init_from=str(folder / "adapter"), targets=["q_proj", "up_proj"],
                                       plus_ratio=8, dora=True)
            optimizer = create_loraplus_optimizer(peft, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=8)
            self.compare(folder, "run", checkpoint, peft, self.losses_of(peft, rows, optimizer))

    def test_patterns_whose_order_decides(self):
        """PEFT sorts the keys of what it saves, so that the general ones would come first here: what lema saves says the
        same in any order."""
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            peft, rows = self.prepare(folder, "llama_gqa", {"target_modules": ["q_proj", "v_proj"]})
            checkpoint = self.run_lema(folder, "run", targets=["q_proj", "v_proj"],
                                       rank_pattern={"layers.1.self_attn.q_proj": 7, "[q]_proj": 2},
                                       alpha_pattern={"self_attn.q_proj": 3, "[qv]_proj": 20})
            loaded = type(peft.get_base_model()).from_pretrained(folder / "model")
            loaded = PeftModel.from_pretrained(loaded, checkpoint).eval()
            ranks = {name: p.shape[0] for name, p in loaded.named_parameters() if "q_proj.lora_A" in name}
            self.assertEqual(ranks, {name: 7 if "layers.1" in name else 2 for name in ranks})
            loaded.save_pretrained(folder / "again", save_embedding_layers=False)
            for adapter in (checkpoint, folder / "again"):
                got = logits(folder / "model", folder / "rows.jsonl", folder / f"{adapter.name}.safetensors", "--adapter",
                             adapter)
                with torch.no_grad():
                    for g, row in zip(got, rows, strict=True):
                        w = loaded(torch.tensor([row["input_ids"]])).logits[0]
                        self.assertLess(float((g - w).abs().max()), 1e-4)

    def test_a_fresh_dora_adapter_is_the_base_model(self):
        """Its magnitudes are the lengths of the weights' rows, as PEFT's; and what is trained from it loads in PEFT."""
        for name in ("llama_gqa", "gpt2"):
            with self.subTest(model=name), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                peft, rows = self.prepare(folder, name, {"target_modules": "all-linear", "use_dora": True})
                self.run_lema(folder, "run", dora=True)
                with torch.no_grad():
                    with peft.disable_adapter():
                        losses = [summed_loss(peft, row) for row in rows]
                want = sum(float(loss) for loss, _ in losses) / sum(trained(row) for row in rows)
                self.assertLess(abs(metrics(folder / "run")[0]["loss"] - want) / want, 1e-5)
                base = type(peft.get_base_model()).from_pretrained(folder / "model")
                loaded = PeftModel.from_pretrained(base, folder / "run" / "checkpoint-000005").eval()
                with torch.no_grad():
                    want = sum(float(summed_loss(loaded, row)[0]) for row in rows) / sum(trained(row) for row in rows)
                self.assertLess(abs(metrics(folder / "run")[5]["loss"] - want) / want, 1e-5)

    def test_what_is_not_applied_is_refused_by_name(self):
        for options, said in (({"target_modules": ["q_proj", "embed_tokens"]}, "model.embed_tokens"),
                              ({"target_modules": ["q_proj"], "modules_to_save": ["k_proj"]}, "modules_to_save")):
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
