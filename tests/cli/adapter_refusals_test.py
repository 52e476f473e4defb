"""Adapters that lema does not apply, or that are broken: each is refused by merge, eval, train and inspect with exit 3 and
one line that names file and place. Standard library only. LEMA is the binary."""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

import tiny_folder

LEMA = os.environ["LEMA"]
FRONT = "base_model.model."
Q = FRONT + "model.layers.0.self_attn.q_proj"
V = FRONT + "model.layers.0.self_attn.v_proj"
HEAD, EMBED = FRONT + "lm_head", FRONT + "model.embed_tokens"
CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
PAIR = {Q + ".lora_A.weight": ("F32", [2, 8]), Q + ".lora_B.weight": ("F32", [8, 2])}
NAN = struct.pack("<f", float("nan"))


def ones(count):
    return struct.pack(f"<{count}f", *[1.0] * count)


def without(*names):
    return {name: spec for name, spec in PAIR.items() if name not in names}


# Name: (keys of adapter_config.json, tensors or None for the sound pair, what the line says).
CONFIGS = {
    "no peft_type": ({"peft_type": None}, 'peft_type: found ""'),
    "another method": ({"peft_type": "IA3"}, 'peft_type: found "IA3"'),
    "another task": ({"task_type": "SEQ_CLS"}, '"SEQ_CLS"'),
    "rank zero": ({"r": 0}, "r: found 0"),
    "rank as text": ({"r": "8"}, "r: found"),
    "rank beyond reason": ({"r": 10**9}, "r: found 1000000000"),
    "alpha below zero": ({"lora_alpha": -1}, "lora_alpha: found -1"),
    "dropout above one": ({"lora_dropout": 2}, "lora_dropout: found 2"),
    "dropout of everything": ({"lora_dropout": 1.0}, "lora_dropout: found 1, expected a number below 1"),
    "fan_in_fan_out as text": ({"fan_in_fan_out": "yes"}, "fan_in_fan_out: found"),
    "trained biases": ({"bias": "all"}, 'bias = "all" is not supported'),
    "biases of LoRA": ({"bias": "lora_only"}, "bias = "),
    "bias of B": ({"lora_bias": True}, "lora_bias = true"),
    "pissa": ({"init_lora_weights": "pissa"}, '"pissa" may change the base weights'),
    "pissa by iterations": ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
    "olora": ({"init_lora_weights": "olora"}, "olora"),
    "corda": ({"init_lora_weights": "corda"}, "corda"),
    "loftq": ({"init_lora_weights": "loftq"}, "loftq"),
    "initialisation as a number": ({"init_lora_weights": 1}, "init_lora_weights: found"),
    "replicated layers": ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication = "),
    "aLoRA": ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens = "),
    "token indices": ({"trainable_token_indices": [1]}, "trainable_token_indices = "),
    "tied on purpose": ({"ensure_weight_tying": True}, "ensure_weight_tying = true"),
    "expert parameters": ({"target_parameters": ["mlp.w"]}, "target_parameters = "),
    "qalora": ({"use_qalora": True}, "use_qalora = true"),
    "arrow": ({"arrow_config": {"top_k": 2}}, "arrow_config = "),
    "targets as a number": ({"target_modules": 3}, "target_modules: found"),
    "a target as a number": ({"target_modules": ["q_proj", 3]}, "target_modules: found integer"),
    "too many targets": ({"target_modules": ["q_proj"] * 4097}, "found 4097 entries, at most 4096"),
    "too many patterns": ({"rank_pattern": {f"x{i}": 2 for i in range(4097)}}, "found 4097 entries"),
    "a pattern that does not compile": ({"rank_pattern": {"q_(proj": 2}}, "rank_pattern"),
    "a rank of a pattern as text": ({"rank_pattern": {"q_proj": "2"}}, "rank_pattern"),
    "a rank that the matrices have not": ({"rank_pattern": {"q_proj": 3}}, "q_proj is of rank 2; r and rank_pattern"),
    "patterns as a list": ({"alpha_pattern": [1]}, "alpha_pattern: found"),
    "targets that are not there": ({"target_modules": ["zzz"]}, Q + ".lora_A.weight: target_modules does not name"),
    "targets that no expression matches": ({"target_modules": ".*_projection"}, "target_modules does not name"),
    "an excluded module": ({"exclude_modules": ["self_attn.q_proj"]}, Q + ".lora_A.weight: exclude_modules takes"),
    "another layer": ({"layers_to_transform": [1, 2]}, Q + ".lora_A.weight: layers_to_transform leaves"),
    "layers of another name": ({"layers_to_transform": 0, "layers_pattern": "h"}, "layers_to_transform leaves"),
    "layers beside an expression": ({"target_modules": ".*", "layers_to_transform": [0]}, "expected a list of names"),
    "modules_to_save as text": ({"modules_to_save": "lm_head"}, "modules_to_save: found"),
    "modules_to_save without a tensor": ({"modules_to_save": ["lm_head"]}, "no tensor of lm_head"),
}
TENSORS = {
    "no B": (without(Q + ".lora_B.weight"), "q_proj has no lora_B"),
    "no A": (without(Q + ".lora_A.weight"), "q_proj has no lora_A"),
    "nothing": ({}, "holds no tensors"),
    "A of another rank": ({**PAIR, Q + ".lora_A.weight": ("F32", [3, 8])}, "needs [2, in]"),
    "A as a vector": ({**PAIR, Q + ".lora_A.weight": ("F32", [16])}, "is [16]"),
    "whole numbers": ({**PAIR, Q + ".lora_A.weight": ("I64", [2, 8])}, "is I64, expected F32, BF16 or F16"),
    "not finite": ({**PAIR, Q + ".lora_A.weight": ("F32", [2, 8], 5 * bytes(4) + NAN + 10 * bytes(4))}, "element 5 is nan"),
    "DoRA's without DoRA": ({**PAIR, Q + ".lora_magnitude_vector": ("F32", [8])}, "use_dora of adapter_config.json is false"),
    "beyond the targets": ({**PAIR, V + ".lora_A.weight": ("F32", [2, 8]), V + ".lora_B.weight": ("F32", [4, 2])},
                           V + ".lora_A.weight: target_modules does not name"),
    "another prefix": ({"model.q_proj.lora_A.weight": ("F32", [2, 8]), **PAIR}, "is not supported"),
    "a bias of B": ({**PAIR, Q + ".lora_B.bias": ("F32", [8])}, "lora_B.bias is not supported"),
    "another method's": ({**PAIR, Q + ".ia3_l": ("F32", [8])}, "ia3_l is not supported"),
}
# What contradicts the model; inspect does not see one.
MODEL = {
    "another width": ({}, {Q + ".lora_A.weight": ("F32", [2, 9]), Q + ".lora_B.weight": ("F32", [8, 2])},
                      "maps 9 to 8 numbers; the model's maps 8 to 8"),
    "another model's module": ({"target_modules": ["c_attn"]}, {FRONT + "transformer.h.0.attn.c_attn.lora_A.weight": ("F32", [2, 8]),
                                    FRONT + "transformer.h.0.attn.c_attn.lora_B.weight": ("F32", [24, 2])}, "c_attn is no"),
    "DoRA of the embedding": ({"use_dora": True, "target_modules": ["embed_tokens"]}, {EMBED + ".lora_embedding_A": ("F32", [2, 259]),
                                                   EMBED + ".lora_embedding_B": ("F32", [8, 2]),
                                                   EMBED + ".lora_magnitude_vector": ("F32", [8])},
                              "DoRA of the embedding model.embed_tokens"),
    "an embedding's pair at a linear": ({}, {Q + ".lora_embedding_A": ("F32", [2, 8]),
                                             Q + ".lora_embedding_B": ("F32", [8, 2])}, "q_proj is no embedding"),
    "a linear's pair at the embedding": ({"target_modules": ["embed_tokens"]}, {EMBED + ".lora_A.weight": ("F32", [2, 259]),
                                              EMBED + ".lora_B.weight": ("F32", [8, 2])}, "model.embed_tokens is "),
    "modules_to_save of a linear": ({"modules_to_save": ["k_proj"]},
                                    {**PAIR, FRONT + "model.layers.0.self_attn.k_proj.weight": ("F32", [4, 8])},
                                    "k_proj"),
    "a resized vocabulary": ({}, {**PAIR, EMBED + ".weight": ("F32", [264, 8])},
                             "of that size; resize the model's vocabulary first"),
    "an embedding of another width": ({}, {**PAIR, EMBED + ".weight": ("F32", [259, 9])},
                                      "is [259, 8]: the adapter belongs to a model of that size\n"),
    "a norm of another width": ({}, {**PAIR, FRONT + "model.norm.weight": ("F32", [9])},
                                "is [8]: the adapter belongs to a model of that size\n"),
    "in full and with a pair": ({"target_modules": ["lm_head"], "modules_to_save": ["lm_head"]},
                                {HEAD + ".lora_A.weight": ("F32", [2, 8]), HEAD + ".lora_B.weight": ("F32", [259, 2]),
                                 HEAD + ".weight": ("F32", [259, 8])},
                                HEAD + ".lora_A.weight belongs to a module that modules_to_save"),
    "an embedding of its own with a pair": ({"target_modules": ["embed_tokens"]},
                                            {EMBED + ".lora_embedding_A": ("F32", [2, 259]),
                                             EMBED + ".lora_embedding_B": ("F32", [8, 2]),
                                             EMBED + ".weight": ("F32", [259, 8], ones(259 * 8))},
                                            "embed_tokens.weight differs from "),
    "a base layer of another model": ({}, {**PAIR, HEAD + ".base_layer.weight": ("F32", [259, 8], ones(259 * 8))},
                                      "lm_head.base_layer.weight differs from "),
    "a norm of another model": ({}, {**PAIR, FRONT + "model.norm.weight": ("F32", [8], ones(8))},
                                "model.norm.weight differs from "),
    "a copy of nothing": ({}, {**PAIR, FRONT + "model.layers.7.mlp.up_proj.weight": ("F32", [16, 8])},
                          "is a copy of no weight"),
    "DoRA over rows of zeros": ({"use_dora": True}, {**PAIR, Q + ".lora_magnitude_vector": ("F32", [8], ones(8))},
                                "output 0 has only zeros for weights"),
}


class Refusals(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_adapters_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        tiny_folder.write_byte_model(cls.folder / "model")
        (cls.folder / "rows.jsonl").write_text(json.dumps({"tokens": [1, 2, 3]}) + "\n")
        cls.commands = {
            "merge": ["merge", "--model", cls.folder / "model", "--adapter", cls.folder / "adapter", "--output",
                      cls.folder / "merged"],
            "eval": ["eval", "--model", cls.folder / "model", "--adapter", cls.folder / "adapter", "--data",
                     cls.folder / "rows.jsonl", "--format", "tokens", "--task", "loss"],
            "train": ["train", cls.folder / "model", cls.folder / "rows.jsonl", "--set", "data.format=tokens", "--set",
                      f"lora.init_from={cls.folder / 'adapter'}", "--set", f"output_dir={cls.folder / 'run'}", "--set",
                      "data.cache=off"],
            "inspect": ["inspect", cls.folder / "adapter"]}

    def write(self, config, tensors):
        adapter = self.folder / "adapter"
        shutil.rmtree(adapter, True)
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps(config) if isinstance(config, dict) else config)
        tiny_folder.write_safetensors(adapter / "adapter_model.safetensors", tensors)

    def run_lema(self, command):
        return subprocess.run([LEMA, *map(str, self.commands[command])], capture_output=True, text=True, timeout=60)

    def refused(self, said, commands):
        for command in commands:
            done = self.run_lema(command)
            self.assertEqual(done.returncode, 3, (command, done.stderr))
            lines = [line for line in done.stderr.splitlines(keepends=True) if "error" in line]
            self.assertEqual(len(lines), 1, done.stderr)
            self.assertIn(said, lines[0], command)
            self.assertIn(str(self.folder), lines[0], command)
            self.assertFalse((self.folder / "merged").exists() or (self.folder / "run").exists())

    def test_a_sound_adapter_passes(self):
        self.write(CONFIG, PAIR)
        for command in ("merge", "eval", "train", "inspect"):
            self.assertEqual(self.run_lema(command).returncode, 0, command)
        shutil.rmtree(self.folder / "merged")
        shutil.rmtree(self.folder / "run")

    def test_unknown_keys_are_named_in_one_line(self):
        for count in (1, 8, 9, 5000):
            self.write(CONFIG | {f"later_{i}": i for i in range(count)}, PAIR)
            done = self.run_lema("inspect")
            self.assertEqual(done.returncode, 0, done.stderr)
            named = ", ".join(f"later_{i}" for i in range(min(count, 8)))
            more = f" and {count - 8} more" if count > 8 else ""
            self.assertIn(f"adapter_config.json: unknown keys, ignored: {named}{more}\n", done.stderr)
            self.assertEqual(done.stderr.count("unknown key"), 1)

    def test_configs(self):
        for name, (keys, said) in CONFIGS.items():
            with self.subTest(name):
                config = {key: value for key, value in {**CONFIG, **keys}.items() if value is not None}
                self.write(config, PAIR)
                self.refused(said, ("merge", "inspect"))

    def test_malformed_configs(self):
        for text in ("", "[]", '{"peft_type": "LORA"', '{"peft_type": "LORA", "r": 1, "r": 2}', "null", '{"r": 1e999}'):
            with self.subTest(text):
                self.write(text, PAIR)
                self.refused("adapter_config.json", ("eval", "inspect"))

    def test_tensors(self):
        for name, (tensors, said) in TENSORS.items():
            with self.subTest(name):
                self.write(CONFIG, tensors)
                self.refused(said, ("merge", "inspect"))

    def test_dora_without_a_magnitude(self):
        self.write({**CONFIG, "use_dora": True}, PAIR)
        self.refused("q_proj has no lora_magnitude_vector", ("eval", "inspect"))
        self.write({**CONFIG, "use_dora": True}, {**PAIR, Q + ".lora_magnitude_vector": ("F32", [7])})
        self.refused("lora_magnitude_vector has 7 numbers, lora_B 8 rows", ("eval", "inspect"))

    def test_files(self):
        self.write(CONFIG, PAIR)
        weights = self.folder / "adapter" / "adapter_model.safetensors"
        whole = weights.read_bytes()
        for data in (b"", whole[:7], whole[:-1], b"\xff" * 16, whole.replace(b"F32", b"F99", 1)):
            weights.write_bytes(data)
            self.refused("adapter_model.safetensors", ("eval", "inspect"))
        weights.rename(weights.with_suffix(".bin"))
        self.refused("adapter_model.bin (a pickle) is not read", ("eval", "inspect"))

    def test_what_contradicts_the_model(self):
        for name, (keys, tensors, said) in MODEL.items():
            with self.subTest(name):
                self.write({**CONFIG, **keys}, tensors)
                self.refused(said, ("merge", "eval") if "zeros" in name else ("merge", "eval", "train"))

    def test_copies_of_the_base_are_forgotten(self):
        zeros = {HEAD + ".base_layer.weight": ("F32", [259, 8]), EMBED + ".weight": ("BF16", [259, 8]),
                 FRONT + "model.norm.weight": ("F16", [8])}
        self.write(CONFIG, {**PAIR, **zeros})
        done = self.run_lema("eval")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("takes the place", done.stderr)

    def test_an_embedding_of_its_own(self):
        """As PEFT stores resized ones: used in the base's place, in a tied model for the head too; not trained."""
        self.write(CONFIG, {**PAIR, EMBED + ".weight": ("F32", [259, 8], ones(259 * 8))})
        for command in ("eval", "merge"):
            done = self.run_lema(command)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("model.embed_tokens.weight takes the place of ", done.stderr)
        merged = (self.folder / "merged" / "model.safetensors").read_bytes()
        self.assertIn(ones(259 * 8), merged)
        shutil.rmtree(self.folder / "merged")
        self.refused("of its own, which is not trained", ("train",))


if __name__ == "__main__":
    unittest.main()
