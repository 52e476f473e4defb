"""The command line itself: exit codes, one-line messages, help, version, tokenize and inspect on small folders.
Standard library only; LEMA is the binary."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import tiny_folder
from crc32c import crc32c

LEMA = os.environ["LEMA"]
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def lema(*arguments, text="", **more):
    return subprocess.run([LEMA, *map(str, arguments)], input=text, capture_output=True, text=True, encoding="utf-8",
                          timeout=120, **more)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_basics_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.model = tiny_folder.write_byte_model(cls.folder / "model", CHATML)

    def refused(self, code, part, *arguments, text=""):
        """One line on standard error, nothing half-said on standard output."""
        done = lema(*arguments, text=text)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertTrue(done.stderr.startswith("lema: error: "), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(part, done.stderr)
        return done

    def lines(self, text, *arguments):
        done = lema("tokenize", "--model", self.model, *arguments, text=text)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]


class Entry(Case):
    def test_version(self):
        done = lema("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        first, compiler, backends = done.stdout.splitlines()
        self.assertRegex(first, r"^lema \d+\.\d+\.\d+$")
        self.assertRegex(compiler, r"^compiler: (g\+\+|clang) \d+")
        self.assertRegex(backends, r"^backends: cpu(, cuda \([a-z0-9_, ]+\))?$")

    def test_help(self):
        done = lema("--help")
        self.assertEqual(done.returncode, 0)
        commands = done.stdout.split("Subcommands:")[1].split()
        for command in ("train", "convert", "merge", "tokenize", "inspect"):
            self.assertIn(command, commands)
            shown = lema(command, "--help")
            self.assertEqual((shown.returncode, shown.stderr), (0, ""))
            self.assertIn("--help", shown.stdout)

    def test_usage_errors(self):
        self.refused(2, "no command; commands: train")
        self.refused(2, "unknown command or flag tokenise", "tokenise")
        self.refused(2, "unknown command or flag --frobnicate", "--frobnicate")
        self.refused(2, "--frobnicate", "tokenize", "--model", "x", "--frobnicate")
        self.refused(2, "--model", "tokenize")
        self.refused(2, "--train-on", "tokenize", "--model", "x", "--chat", "--train-on", "some")
        self.refused(2, "--render", "tokenize", "--model", "x", "--render")
        self.refused(2, "--chat", "tokenize", "--model", "x", "--chat", "--decode")
        self.refused(2, "path", "inspect")

    def test_output_that_cannot_be_written(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        with open("/dev/full", "w") as full:
            done = subprocess.run([LEMA, "tokenize", "--model", self.model], input=b"a\n", stdout=full,
                                  stderr=subprocess.PIPE, timeout=120)
        self.assertEqual(done.returncode, 74)
        self.assertIn(b"cannot write the output", done.stderr)

    def test_closed_pipe(self):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([LEMA, "tokenize", "--model", self.model], input=b"a\n", stdout=write,
                              stderr=subprocess.PIPE, timeout=120)
        os.close(write)
        self.assertEqual(done.returncode, 74, done.stderr)


class Tokenize(Case):
    def test_lines(self):
        self.assertEqual(self.lines("!\"\n\n<|im_end|>!\n"), [self.ids("!\""), [], [258, *self.ids("!")]])
        self.assertEqual(self.lines("no end"), [self.ids("no end")])
        self.assertEqual(self.lines("\"a\\nb\\u00e4\"\n", "--json-lines", "--no-special"), [self.ids("a\nb\u00e4")])

    @staticmethod
    def ids(text):
        return list(text.encode())

    def test_decode(self):
        ids = [256, *self.ids("h\u00e4\n")]
        self.assertEqual(self.lines(json.dumps(ids) + "\n", "--decode"), ["<|endoftext|>h\u00e4\n"])
        self.assertEqual(self.lines(json.dumps(ids) + "\n", "--decode", "--skip-special"), ["h\u00e4\n"])

    def test_chat(self):
        row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
        (chat,) = self.lines(json.dumps(row) + "\n", "--chat")
        self.assertEqual(chat["text"], "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n")
        self.assertEqual(chat["ids"], [257, *self.ids("user\nq"), 258, 10, 257, *self.ids("assistant\na"), 258, 10])
        self.assertEqual(chat["trained"], [0] * (len(chat["ids"]) - 3) + [1, 1, 1])
        (chat,) = self.lines(json.dumps(row) + "\n", "--chat", "--train-on", "all")
        self.assertEqual(set(chat["trained"]), {1})
        row["add_generation_prompt"] = True
        (chat,) = self.lines(json.dumps(row) + "\n", "--chat", "--render", "--chat-template", "chatml")
        self.assertEqual(list(chat), ["text"])
        self.assertTrue(chat["text"].endswith("<|im_end|>\n<|im_start|>assistant\n"))

    def test_render_reports_the_templates_error_and_goes_on(self):
        template = self.folder / "strict.jinja"
        template.write_text("{{ raise_exception('never') if messages[0].role == 'system' else 'fine' }}")
        rows = [{"messages": [{"role": role, "content": "x"}]} for role in ("system", "user")]
        refused, fine = self.lines("".join(json.dumps(row) + "\n" for row in rows), "--chat", "--render",
                                   "--chat-template", str(template))
        self.assertIn("never", refused["error"])
        self.assertEqual(fine, {"text": "fine"})

    def test_bad_input(self):
        model = ("tokenize", "--model", self.model)
        self.refused(3, "standard input:2:", *model, "--json-lines", text="\"a\"\nb\n")
        self.refused(3, "standard input:1: found integer, expected a JSON string", *model, "--json-lines", text="3\n")
        self.refused(3, "standard input:1: element 1 is not a token id", *model, "--decode", text="[1, -1]")
        self.refused(3, "standard input:1: no field \"messages\"", *model, "--chat", text="{}\n")
        self.refused(3, "/nonexistent", "tokenize", "--model", "/nonexistent")
        self.refused(2, "has no token <|start_header_id|>", *model, "--chat", "--chat-template", "llama3", text="{}\n")

    def test_tokenizer_beyond_the_embedding(self):
        small = tiny_folder.write_llama(self.folder / "small", 200)
        (small / "tokenizer.json").write_text(json.dumps(tiny_folder.byte_tokenizer()))
        def encode(text):
            return lema("tokenize", "--model", small, text=text)

        self.assertEqual(encode("a").stdout, "[97]\n")
        self.assertIn("ids up to 258, the model's embedding has 200 rows", encode("a").stderr)
        (small / "model.safetensors").unlink()  # text needs no weights, nor a config
        self.assertEqual(encode("\u6cb3").returncode, 3)
        self.assertIn("has id 230 of 259 in the tokenizer, the model's embedding has 200 rows", encode("\u6cb3").stderr)
        (small / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
        (small / "config.json").unlink()
        self.assertEqual(encode("\u6cb3").stdout, "[230, 178, 179]\n")
        (small / "tokenizer.json").unlink()
        self.refused(3, "no tokenizer.json", "tokenize", "--model", small)


class Inspect(Case):
    def facts(self, path, *arguments):
        done = lema("inspect", path, "--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        shown = lema("inspect", path, *arguments)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        facts = json.loads(done.stdout)
        self.assertIn(facts["kind"], shown.stdout)
        return facts

    def test_model(self):
        facts = self.facts(self.model, "--tensors")
        self.assertEqual((facts["kind"], facts["blocks"], facts["width"], facts["vocabulary"]), ("model", 1, 8, 259))
        self.assertEqual(facts["tensors"], len(facts["tensor_list"]))
        self.assertEqual(facts["tensor_bytes"], 4 * facts["parameters"])
        self.assertEqual(facts["bytes_by_dtype"], {"F32": facts["tensor_bytes"]})
        self.assertEqual(facts["stop_tokens"], ["256 <|endoftext|>", "258 <|im_end|>"])
        self.assertEqual(facts["chat_template"], "chat_template.jinja")

    def test_families(self):
        def model(name, **config):
            return tiny_folder.write_llama(self.folder / name, 259, **config)

        mistral = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4}
        yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
        facts = self.facts(model("mistral", **mistral, rope_scaling=yarn))
        self.assertEqual((facts["rope"], facts["sliding_window"], facts["windowed_blocks"]), ("yarn", 4, 1))
        self.assertEqual(facts["max_positions"], 128)
        self.assertNotIn("sliding_window", self.facts(self.model))
        for name, config, text in (
                ("kind", {"rope_scaling": {"type": "mrope"}}, "RoPE type \"mrope\" is not supported; supported: default, linear"),
                ("partial", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: only 1 is supported"),
                ("types", {**mistral, "layer_types": ["full_attention"]}, "layer_types: full_attention in a mistral model"),
                ("family", {"model_type": "mixtral"}, "\"mixtral\" is not supported; supported: llama (LlamaForCausalLM), mistral"),
                ("fused", {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]},
                 "tensor model.layers.0.self_attn.qkv_proj.weight is missing"),
                ("biases", {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
                 "tensor model.layers.0.self_attn.q_proj.bias is missing")):
            self.refused(3, text, "inspect", model(name, **config))

    def test_safetensors(self):
        path = self.folder / "x.safetensors"
        tiny_folder.write_safetensors(path, {"a\x1b[31m": ("BF16", [2, 3]), "b": ("U8", [])}, {"key": "value"})
        facts = self.facts(path, "--tensors")
        self.assertEqual((facts["kind"], facts["tensors"], facts["parameters"]), ("safetensors", 2, 7))
        self.assertEqual(facts["bytes_by_dtype"], {"BF16": 12, "U8": 1})
        self.assertEqual(facts["metadata"], {"key": "value"})
        self.assertNotIn("\x1b", lema("inspect", path, "--tensors").stdout)

    def test_adapter_and_checkpoint(self):
        folder = self.folder / "checkpoint-000003"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(
            {"peft_type": "LORA", "base_model_name_or_path": "base", "r": 2, "lora_alpha": 4,
             "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}))
        module = "base_model.model.model.layers.0.self_attn.q_proj"
        tiny_folder.write_safetensors(folder / "adapter_model.safetensors", {
            f"{module}.lora_A.weight": ("F32", [2, 8]), f"{module}.lora_B.weight": ("F32", [8, 2])}, {"format": "pt"})
        facts = self.facts(folder, "--tensors")
        self.assertEqual((facts["kind"], facts["rank"], facts["modules"], facts["parameters"]), ("adapter", 2, 1, 32))
        self.assertEqual((facts["method"], facts["alpha"], facts["targets"]), ("LoRA", 4, ["q_proj"]))
        config = json.loads((folder / "adapter_config.json").read_text())
        more = {"use_rslora": True, "rank_pattern": {"self_attn.q_proj": 2, "x": 9}, "modules_to_save": []}
        (folder / "adapter_config.json").write_text(json.dumps({**config, **more, "r": 5}))
        facts = self.facts(folder)
        self.assertEqual((facts["method"], facts["rank"], facts["rank_pattern"]),
                         ("LoRA, alpha / sqrt(rank)", 5, {"self_attn.q_proj": 2, "x": 9}))
        (folder / "adapter_config.json").write_text(json.dumps(config))
        files = {path.name: {"bytes": path.stat().st_size, "crc32c": f"{crc32c(path.read_bytes()):08x}"}
                 for path in folder.iterdir()}
        (folder / "manifest.json").write_text(json.dumps({"format": 1, "step": 3, "run_id": "r", "files": files}))
        facts = self.facts(folder)
        self.assertEqual((facts["kind"], facts["step"], facts["rank"]), ("checkpoint", 3, 2))
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
        self.refused(3, "adapter_model.safetensors", "inspect", folder)

    def test_what_is_not_sound(self):
        path = self.folder / "cut.safetensors"
        path.write_bytes((self.model / "model.safetensors").read_bytes()[:-1])
        self.refused(3, "cut.safetensors", "inspect", path)
        self.refused(3, "without manifest.json, adapter_config.json, config.json or run.json", "inspect", self.folder)
        wrong = tiny_folder.write_llama(self.folder / "wrong", 16)
        tensors = tiny_folder.llama_tensors(16)
        tensors["model.layers.0.mlp.up_proj.weight"] = ("F32", [16, 7])
        tiny_folder.write_safetensors(wrong / "model.safetensors", tensors)
        self.refused(3, "model.layers.0.mlp.up_proj.weight", "inspect", wrong)
        checkpoint = self.folder / "checkpoint"
        checkpoint.mkdir()
        (checkpoint / "manifest.json").write_text("{}")
        self.refused(3, "manifest.json", "inspect", checkpoint)
        self.refused(3, "/nonexistent", "inspect", "/nonexistent")


if __name__ == "__main__":
    unittest.main()
