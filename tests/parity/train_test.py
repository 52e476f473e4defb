"""LoRA training against transformers + PEFT + autograd, live and in f32, on tiny random models of both families: every
gradient of every target, thirty optimizer steps, adapters both ways. LEMA is the binary."""
import json
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import torch
from peft import PeftModel
from safetensors.torch import load_file

from first_gradients import first_gradients
from torch_models import MODELS, alone, logits, metrics, random_rows, randomised, save, summed_loss, train, trained, with_adapter, \
    write_rows


def relative_error(got, want):
    return float((got - want).norm() / want.norm())


def lora_parameters(peft):
    """{saved name: parameter}, as adapter_model.safetensors spells them."""
    return {name.replace(".default", ""): p for name, p in peft.named_parameters() if "lora_" in name}


class Case:
    """One model folder with a random adapter and rows on disk."""

    def __init__(self, folder, name, rows):
        self.folder = pathlib.Path(folder)
        build, self.targets = MODELS[name]
        torch.manual_seed(1)
        self.model = randomised(build(), 2)
        self.base = save(self.model, self.folder / "model")
        self.peft = with_adapter(self.model, self.targets)
        self.peft.save_pretrained(self.folder / "adapter")
        self.rows = random_rows(rows, 3)
        self.data = write_rows(self.folder / "rows.jsonl", self.rows)

    def config(self, run, **sections):
        config = {"model": str(self.base), "output_dir": str(self.folder / run), "compute": "f32",
                  "data": {"train": str(self.data), "format": "tokens", "shuffle": False},
                  "lora": {"rank": 4, "alpha": 10, "init_from": str(self.folder / "adapter")},
                  "optimizer": {"lr": 1e-3, "clip": 0}, "schedule": {"name": "constant", "warmup": 0},
                  "train": {"max_steps": 1, "batch_size": len(self.rows), "token_tile": 32}}
        for section, values in sections.items():
            config[section] = {**config[section], **values} if isinstance(values, dict) and section in config else values
        return config

    def adapter(self, run, step):
        return load_file(self.folder / run / f"checkpoint-{step:06}" / "adapter_model.safetensors")

    def gradients(self, run):
        shapes = {name: p.shape for name, p in lora_parameters(self.peft).items()}
        return first_gradients(self.folder / run / "checkpoint-000001", shapes, self.targets)


class Gradients(unittest.TestCase):
    def test_every_gradient_of_every_target(self):
        for name in MODELS:
            for memory in ({}, {"activations": "recompute"}):
                with self.subTest(model=name, memory=memory), tempfile.TemporaryDirectory() as folder:
                    case = Case(folder, name, rows=5)
                    train(case.config("run", memory=memory), folder)
                    total = sum(trained(row) for row in case.rows)
                    loss = sum(summed_loss(case.peft, row)[0] for row in case.rows) / total
                    loss.backward()
                    [line] = metrics(case.folder / "run")
                    self.assertLess(abs(line["loss"] - float(loss)) / float(loss), 1e-6)
                    got = case.gradients("run")
                    want = {n: p.grad for n, p in lora_parameters(case.peft).items()}
                    self.assertEqual(len(got), 2 * len(case.targets) * 3)
                    errors = {parameter: relative_error(got[parameter], want[parameter]) for parameter in want}
                    for parameter, error in errors.items():
                        self.assertLess(error, 1e-4, parameter)
                    print(f"{name} {memory}: {len(errors)} gradients within {max(errors.values()):.1e}")
                    norm = math.sqrt(sum(float(g.norm()) ** 2 for g in want.values()))
                    self.assertLess(abs(line["grad_norm"] - norm) / norm, 1e-4)


class Steps(unittest.TestCase):
    """Warm-up, cosine, clipping, weight decay and accumulation over thirty steps."""
    STEPS, BATCH, LR, WARMUP = 30, 4, 5e-3, 3

    def rate(self, step):
        if step < self.WARMUP:
            return self.LR * step / self.WARMUP
        p = (step - self.WARMUP) / (self.STEPS - self.WARMUP)
        return self.LR * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * p)))

    def reference(self, case):
        parameters = list(lora_parameters(case.peft).values())
        optimizer = torch.optim.AdamW(parameters, lr=self.LR, weight_decay=0.05, eps=1e-8)
        losses = []
        for step in range(self.STEPS):
            start = step * self.BATCH % len(case.rows)
            rows = case.rows[start:start + self.BATCH]
            total = sum(trained(row) for row in rows)
            optimizer.zero_grad()
            losses.append(0.0)
            for row in rows:  # accumulation: one row at a time, weighted by tokens
                loss = summed_loss(case.peft, row)[0] / total
                loss.backward()
                losses[-1] += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            for group in optimizer.param_groups:
                group["lr"] = self.rate(step)
            optimizer.step()
        return losses

    def test_thirty_steps(self):
        for name in ("llama_gqa", "gpt2"):
            with self.subTest(model=name), tempfile.TemporaryDirectory() as folder:
                case = Case(folder, name, rows=12)
                train(case.config("run", optimizer={"lr": self.LR, "clip": 0.5, "weight_decay": 0.05},
                                  schedule={"name": "cosine", "warmup": self.WARMUP, "min_lr_ratio": 0.1},
                                  train={"max_steps": self.STEPS, "batch_size": self.BATCH, "micro_batch_size": 2}),
                      folder)
                want = self.reference(case)
                got = [line["loss"] for line in metrics(case.folder / "run")]
                self.assertEqual(len(got), self.STEPS)
                self.assertLess(want[-1], want[0])
                for step, (g, w) in enumerate(zip(got, want)):
                    self.assertLess(abs(g - w) / w, 1e-4, f"step {step}")
                final = case.adapter("run", self.STEPS)
                for parameter, value in lora_parameters(case.peft).items():
                    self.assertLess(relative_error(final[parameter], value.detach()), 1e-4, parameter)


class Adapters(unittest.TestCase):
    def test_another_scaling_is_refused(self):
        """alpha/rank belongs to the adapter: starting from it with another one would change its effect without a word."""
        with tempfile.TemporaryDirectory() as folder:
            case = Case(folder, "llama_tied", rows=4)
            config = case.config("run", lora={"rank": 4, "alpha": 32, "init_from": str(case.folder / "adapter")})
            (case.folder / "run.json").write_text(json.dumps(config))
            done = subprocess.run([os.environ["LEMA"], "train", "--config", case.folder / "run.json"],
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("lora.alpha is 32.0; the adapter ", done.stderr)

    def test_lema_adapter_loads_in_peft(self):
        """A fresh lema adapter, trained for five steps, gives PEFT lema's logits, and the loss that lema reports for its
        sixth."""
        for name in ("llama_tied", "gpt2", "qwen3", "phi3_longrope"):
            with self.subTest(model=name), tempfile.TemporaryDirectory() as folder:
                case = Case(folder, name, rows=4)
                settings = dict(lora={"rank": 6, "alpha": 9, "init_from": "", "targets": ["all-linear"]},
                                optimizer={"lr": 1e-2}, checkpoint={"every_steps": 5})
                train(case.config("run", train={"max_steps": 6, "batch_size": 4}, **settings), folder)
                build, _ = MODELS[name]
                base = type(case.model).from_pretrained(case.base)
                loaded = PeftModel.from_pretrained(base, case.folder / "run" / "checkpoint-000005").eval()
                total = sum(trained(row) for row in case.rows)
                with torch.no_grad():
                    loss = sum(float(summed_loss(loaded, row)[0]) for row in case.rows) / total
                    want = [alone(loaded, row) for row in case.rows]
                self.assertLess(abs(metrics(case.folder / "run")[5]["loss"] - loss) / loss, 1e-5)
                got = logits(case.base, case.data, case.folder / "logits.safetensors", "--adapter",
                             case.folder / "run" / "checkpoint-000005")
                for g, w in zip(got, want, strict=True):
                    self.assertLess(float((g - w).abs().max()), 1e-4)


if __name__ == "__main__":
    unittest.main()
