"""The rules of adapters against PEFT, live and in f32, on tiny random models: regular expressions, layers, exclusions,
patterns, rsLoRA, DoRA, LoRA+. Forward, every gradient, ten steps, files both ways. LEMA is the binary."""
import json
import pathlib
import tempfile
import unittest

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file

from torch_models import MODELS, V, lema, logits, metrics, random_rows, randomised, save, summed_loss, train, trained, \
    write_rows

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
    # Fused matrices; normed heads.
    "dora_phi3": ("phi3_longrope", {"use_dora": True, "target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]},
                  {"dora": True, "targets": ["qkv_proj", "gate_up_proj", "o_proj"]}),
    "rslora_phi3": ("phi3", {"use_rslora": True, "target_modules": ["qkv_proj", "down_proj"], "rank_pattern": {"qkv_proj": 7}},
                    {"rslora": True, "targets": ["qkv_proj", "down_proj"], "rank_pattern": {"qkv_proj": 7}}),
    "dora_qwen3": ("qwen3", {"use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "k_proj", "down_proj"]},
                   {"dora": True, "rslora": True, "targets": ["q_proj", "k_proj", "down_proj"]}),
    "head": ("llama_gqa", {"target_modules": ["q_proj", "lm_head"], "rank_pattern": {"lm_head": 7}},
             {"targets": ["q_proj", "lm_head"], "rank_pattern": {"lm_head": 7}}),
    "head_alone": ("gpt2_untied", {"target_modules": ["lm_head"], "use_rslora": True},
                   {"targets": ["lm_head"], "rslora": True}),
    "head_tied": ("llama_tied", {"target_modules": ["up_proj", "lm_head"]}, {"targets": ["up_proj", "lm_head"]}),
    "embedding": ("llama_gqa", {"target_modules": ["embed_tokens", "v_proj"], "rank_pattern": {"embed_tokens": 3}},
                  {"targets": ["embed_tokens", "v_proj"], "rank_pattern": {"embed_tokens": 3}}),
    "ends": ("gpt2_untied", {"target_modules": ["wte", "lm_head"], "alpha_pattern": {"wte": 3}, "rank_pattern": {"wte": 6}},
             {"targets": ["wte", "lm_head"], "alpha_pattern": {"wte": 3}, "rank_pattern": {"wte": 6}}),
    "ends_tied": ("llama_tied", {"target_modules": ["embed_tokens", "lm_head"]}, {"targets": ["embed_tokens", "lm_head"]}),
    "saved": ("llama_gqa", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
              {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    # Head and embedding are one matrix in these: each copy is trained by itself.
    "saved_tied_head": ("llama_tied", {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
                        {"targets": ["v_proj"], "modules_to_save": ["lm_head"]}),
    "saved_tied_table": ("gpt2", {"target_modules": ["c_fc"], "modules_to_save": ["wte"], "use_dora": True},
                         {"targets": ["c_fc"], "modules_to_save": ["wte"], "dora": True}),
}


def parameters_of(peft):
    """{saved name: parameter} in the order of execution, which is that of lema's parameters."""
    names = {name: name.replace("magnitude_vector.default.weight", "magnitude_vector")
             .replace(".modules_to_save", "").replace(".default", "") for name, _ in peft.named_parameters()}
    trained = {names[name]: p for name, p in peft.named_parameters() if "lora_" in name or "modules_to_save" in name}
    places = {}  # of each attention's first parameter: Phi-3 declares o_proj before qkv_proj
    for place, name in enumerate(trained):
        places.setdefault(attention_of(name), place)
    return {name: trained[name] for name in sorted(trained, key=lambda n: (places[attention_of(n)], "o_proj" in n))}


def attention_of(name):
    return name.split(".self_attn.")[0] if ".self_attn." in name else name


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
               "lora": lora, "optimizer": {"lr": LR, "clip": 0},
               "schedule": {"name": "constant", "warmup": 0}, "train": {"max_steps": STEPS, "batch_size": 4},
               "checkpoint": {"every_steps": 1, "keep": STEPS}}, folder)
        return folder / run / f"checkpoint-{STEPS:06}"

    def refused_run(self, folder, **lora):
        with self.assertRaises(AssertionError) as raised:
            self.run_lema(folder, "refused", **lora)
        self.assertIn("exit 2", str(raised.exception))
        return str(raised.exception)

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
        for g, w in zip(got, want, strict=True):
            self.assertLess(abs(g - w) / w, 1e-4)
        tensors, parameters = load_file(checkpoint / "adapter_model.safetensors"), parameters_of(peft)
        self.assertEqual(set(tensors), set(parameters))
        for name, parameter in parameters.items():
            self.assertLess(relative_error(tensors[name], parameter.detach()), 1e-4, name)
        # After one step from zero moments the first moment is (1 - beta1) times the gradient.
        moment = load_file(folder / run / "checkpoint-000001" / "state.safetensors")["moment1"] / (1 - 0.9)
        parts = moment.split([gradient.numel() for gradient in self.gradients.values()])
        for got, (name, want) in zip(parts, self.gradients.items(), strict=True):
            if name.endswith("lora_embedding_A"):  # a row for each token
                got = got.view(want.shape[::-1]).T.reshape(-1)
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
                    self.assertIn("trained apart from the matrix" if "saved" in case else "the embedding's own matrix",
                                  done.stderr)

                checkpoint = self.run_lema(folder, "run", init_from=str(folder / "adapter"))
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

    def test_settings_beside_those_of_an_adapter(self):
        """Not repeated they are the adapter's; repeated they change nothing; another value is a mistake."""
        for case in ("patterns", "exclude", "layers", "saved", "head"):
            with self.subTest(case=case), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                name, options, lora = CASES[case]
                self.prepare(folder, name, options)
                start = {"init_from": str(folder / "adapter")}
                checkpoint = self.run_lema(folder, "silent", **start)
                repeated = self.run_lema(folder, "repeated", rank=4, alpha=10, **lora, **start)
                for file in ("adapter_model.safetensors", "adapter_config.json"):
                    self.assertEqual((repeated / file).read_bytes(), (checkpoint / file).read_bytes())
                # The resolved config says what the adapter said, and is one that says the same again.
                resolved = json.loads((folder / "silent" / "run.json").read_text())
                self.assertEqual((resolved["lora"]["rank"], resolved["lora"]["alpha"]), (4, 10))
                again = self.run_lema(folder, "again", **resolved["lora"])
                self.assertEqual((again / "adapter_model.safetensors").read_bytes(),
                                 (checkpoint / "adapter_model.safetensors").read_bytes())
                for other, said in (({"rank": 5}, "lora.rank is 5; the adapter "), ({"alpha": 11}, "lora.alpha is 11"),
                                    ({"rslora": not lora.get("rslora", False)}, "lora.rslora is "),
                                    ({"dora": not lora.get("dora", False)}, "lora.dora is "),
                                    ({"layers": ["first:1"]}, " by lora.layers, "),
                                    ({"rank_pattern": {".*": 3}}, " by lora.rank_pattern, "),
                                    ({"targets": "all-linear"}, " by lora.targets, ")):
                    message = self.refused_run(folder, **other, **start)
                    self.assertIn(said, message)
                    self.assertIn(str(folder / "adapter"), message)

    def test_copies_of_base_weights(self):
        """PEFT stores the embedding and head beside adapters of the head: copies are forgotten, in any type that PEFT ran
        in; those of another model are refused, and an embedding of its own is used as PEFT uses it."""
        for name, kind in (("llama_gqa", torch.float32), ("llama_tied", torch.float32), ("llama_gqa", torch.bfloat16),
                           ("gpt2", torch.float16)):
            with self.subTest(model=name, kind=kind), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                peft, rows = self.prepare(folder, name, {"target_modules": ["v_proj" if "llama" in name else "c_fc", "lm_head"]})
                with torch.no_grad():
                    want = [peft(torch.tensor([row["input_ids"]])).logits[0] for row in rows]
                peft.to(kind).save_pretrained(folder / "copies", save_embedding_layers=True)
                stored = load_file(folder / "copies" / "adapter_model.safetensors")
                self.assertIn("base_model.model.lm_head.base_layer.weight", stored)
                got = logits(folder / "model", folder / "rows.jsonl", folder / "got.safetensors", "--adapter",
                             folder / "copies")
                for g, w in zip(got, want, strict=True):
                    self.assertLess(float((g - w).abs().max()), 1e-4 if kind == torch.float32 else 0.5)
                stored["base_model.model.lm_head.base_layer.weight"][5, 3] += 1
                save_file(stored, folder / "copies" / "adapter_model.safetensors")
                done = lema("merge", "--model", folder / "model", "--adapter", folder / "copies", "--output",
                            folder / "merged", check=False)
                self.assertEqual(done.returncode, 3)
                self.assertIn("adapter_model.safetensors: tensor base_model.model.lm_head.base_layer.weight differs from",
                              done.stderr)

    def test_a_copy_of_a_buffer(self):
        """Published GPT-2 files carry masks, which no computation reads: nothing can be a copy of one."""
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            self.prepare(folder, "gpt2", {"target_modules": ["c_attn"]})
            for file, name, mask in (("model/model.safetensors", "transformer.h.0.attn.bias", torch.uint8),
                                     ("adapter/adapter_model.safetensors", "base_model.model.transformer.h.0.attn.bias",
                                      torch.float32)):
                tensors = load_file(folder / file)
                save_file({**tensors, name: torch.zeros(1, 1, 64, 64, dtype=mask)}, folder / file, {"format": "pt"})
            for command in (("merge", "--output", folder / "merged"),
                            ("eval", "--data", folder / "rows.jsonl", "--format", "tokens", "--task", "loss")):
                done = lema(*command, "--model", folder / "model", "--adapter", folder / "adapter", check=False)
                self.assertEqual(done.returncode, 3, done.stderr)
                self.assertIn("transformer.h.0.attn.bias is a copy of no weight of ", done.stderr)

    def test_a_resized_vocabulary(self):
        for name, saved in (("llama_gqa", None), ("llama_tied", None), ("llama_gqa", ["embed_tokens", "lm_head"])):
            with self.subTest(model=name, saved=saved), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                torch.manual_seed(1)
                model = randomised(MODELS[name][0](), 2)
                save(model, folder / "small")
                model.resize_token_embeddings(V + 9)
                save(model, folder / "padded")
                model.get_input_embeddings().weight.data[V:] += 0.1
                peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=saved,
                                                        task_type="CAUSAL_LM"))
                peft.save_pretrained(folder / "adapter", save_embedding_layers=True)
                rows = random_rows(3, 3)
                rows[0]["input_ids"][0] = rows[0]["labels"][0] = V + 4
                write_rows(folder / "rows.jsonl", rows)
                got = logits(folder / "padded", folder / "rows.jsonl", folder / "got.safetensors", "--adapter",
                             folder / "adapter")
                lema("merge", "--model", folder / "padded", "--adapter", folder / "adapter", "--output", folder / "merged",
                     "--verify")
                merged = logits(folder / "merged", folder / "rows.jsonl", folder / "merged.safetensors")
                for g, m, row in zip(got, merged, rows, strict=True):
                    with torch.no_grad():
                        w = peft(torch.tensor([row["input_ids"]])).logits[0]
                    self.assertLess(float((g - w).abs().max()), 1e-4)
                    self.assertLess(float((m - w).abs().max()), 1e-4)
                done = lema("merge", "--model", folder / "small", "--adapter", folder / "adapter", "--output",
                            folder / "other", check=False)
                self.assertEqual(done.returncode, 3)
                self.assertIn(f"is [{V + 9}, 48]", done.stderr)
                self.assertIn(f"is [{V}, 48]", done.stderr)

    def test_loraplus(self):
        for options, lora, more in (({"target_modules": ["q_proj", "up_proj"], "use_dora": True}, {}, {}),
                                    ({"target_modules": ["q_proj", "embed_tokens"]}, {}, {}),
                                    ({"target_modules": ["embed_tokens", "lm_head"]}, {"plus_embedding_lr": 5e-4},
                                     {"loraplus_lr_embedding": 5e-4})):
            with self.subTest(options=options), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                peft, rows = self.prepare(folder, "llama_gqa", options)
                checkpoint = self.run_lema(folder, "run", init_from=str(folder / "adapter"), plus_ratio=8, **lora)
                optimizer = create_loraplus_optimizer(peft, torch.optim.AdamW, lr=LR, loraplus_lr_ratio=8, **more)
                self.compare(folder, "run", checkpoint, peft, self.losses_of(peft, rows, optimizer))

    def test_patterns_whose_order_decides(self):
        """PEFT sorts the keys of what it saves, so that the general ones would come first here: what lema saves says the
        same in any order."""
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            peft, rows = self.prepare(folder, "llama_gqa", {"target_modules": ["q_proj", "v_proj"]})
            checkpoint = self.run_lema(folder, "run", rank=4, alpha=10, targets=["q_proj", "v_proj"],
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

    def test_a_fresh_adapter_is_the_base_model(self):
        """DoRA's magnitudes are the lengths of the weights' rows, B is zero, of the embedding A; and what is trained from
        it loads in PEFT."""
        for name, lora in (("llama_gqa", {"dora": True}), ("gpt2", {"dora": True}),
                           ("llama_gqa", {"targets": ["embed_tokens", "q_proj", "lm_head"]}),
                           ("gpt2", {"targets": ["wte", "c_fc"], "rslora": True})):
            with self.subTest(model=name, lora=lora), tempfile.TemporaryDirectory() as path:
                folder = pathlib.Path(path)
                peft, rows = self.prepare(folder, name, {"target_modules": ["v_proj", "c_attn"]})
                self.run_lema(folder, "run", rank=4, alpha=10, **lora)
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

    def test_dora_on_the_head(self):
        """Logits and merging, but no loss."""
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            peft, rows = self.prepare(folder, "llama_gqa", {"target_modules": ["o_proj", "lm_head"], "use_dora": True})
            model, adapter, data = folder / "model", folder / "adapter", folder / "rows.jsonl"
            lema("merge", "--model", model, "--adapter", adapter, "--output", folder / "merged", "--verify")
            for got in (logits(model, data, folder / "a.safetensors", "--adapter", adapter),
                        logits(folder / "merged", data, folder / "b.safetensors")):
                for g, row in zip(got, rows, strict=True):
                    with torch.no_grad():
                        w = peft(torch.tensor([row["input_ids"]])).logits[0]
                    self.assertLess(float((g - w).abs().max()), 1e-4)
            for command in (("eval", "--model", model, "--adapter", adapter, "--data", data, "--format", "tokens", "--task",
                             "loss"),
                            ("train", model, data, "--set", "data.format=tokens", "--set", f"lora.init_from={adapter}",
                             "--set", f"output_dir={folder / 'run'}")):
                done = lema(*command, check=False)
                self.assertEqual(done.returncode, 3)
                self.assertIn("the adapter has DoRA on the head", done.stderr)

    def test_what_is_not_applied_is_refused_by_name(self):
        for options, said in (({"target_modules": ["q_proj", "embed_tokens"], "use_dora": True}, "model.embed_tokens"),
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
