"""The chat template of a run goes with its adapter: a checkpoint brings along a template that is not the model's own, chat,
eval and merge take it, and a run is not resumed with other text files. Standard library only. LEMA is the binary."""
import json
import subprocess
import unittest

from tiny_run import LEMA, RunCase

OWN = ("{% for m in messages %}[{{ m.role }}{{ ' thinks' if enable_thinking is defined and enable_thinking else '' }}]"
       "{{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}[assistant{{ ' thinks' if enable_thinking "
       "is defined and enable_thinking else '' }}]{% endif %}")
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
CHATML = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"


class AdapterTemplate(RunCase):
    def setUp(self):
        super().setUp()
        (self.model / "chat_template.jinja").write_text(OWN)
        self.data.write_text(json.dumps({"messages": TURNS}) + "\n")

    def train(self, *settings, code=0, resume=False, **data):
        config = self.config(data={"train": str(self.data), **data}, train={"max_steps": 1}, lora={"rank": 2})
        return self.lema("train", "--config", config, *settings, *(["--resume"] if resume else []), code=code)

    def output(self, *arguments, text=None):
        result = subprocess.run([LEMA, *map(str, arguments)], capture_output=True, text=True, input=text)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout, result.stderr

    def rendered(self, model, **more):
        out, _ = self.output("tokenize", "--model", model, "--chat", "--render",
                             text=json.dumps({"messages": TURNS, **more}) + "\n")
        return json.loads(out)["text"]

    def prompt_tokens(self, *options):
        out, log = self.output("chat", "--model", self.model, "--adapter", self.folder / "run" / "last", "--greedy",
                               "--json", "--max-new-tokens", 1, "--prompt", "hi", *options)
        return json.loads(out)["prompt_tokens"], log

    def test_another_template_is_stored_and_taken(self):
        self.train(chat_template="chatml")
        last = self.folder / "run" / "last"
        self.assertIn("<|im_start|>", (last / "chat_template.jinja").read_text())
        count, log = self.prompt_tokens()
        self.assertEqual(count, 1 + len("user\nhi") + 2 + 1 + len("assistant\n"))
        self.assertIn("the chat template is the adapter's", log)
        self.assertEqual(self.prompt_tokens("--chat-template", self.model / "chat_template.jinja")[0],
                         len("[user]hi") + 1 + len("[assistant]"))
        out, log = self.output("eval", "--model", self.model, "--adapter", last, "--data", self.data, "--task", "loss",
                               "--json")
        self.assertEqual(json.loads(out)["tokens"], len("yes") + 2)
        self.assertIn("the chat template is the adapter's", log)

    def test_a_run_that_goes_on_from_an_adapter_keeps_its_template(self):
        self.train(chat_template="chatml")
        first = self.folder / "run" / "last"
        more = ("--set", f"output_dir={self.folder / 'two'}", "--set", f"lora.init_from={first}")
        log = self.train(*more)
        self.assertIn("chat_template.jinja: the run's chat template", log)
        self.assertEqual((self.folder / "two" / "last" / "chat_template.jinja").read_text(),
                         (first / "chat_template.jinja").read_text())
        self.train(*more, resume=True)
        own = str(self.model / "chat_template.jinja")
        log = self.train("--set", f"output_dir={self.folder / 'three'}", *more[2:], chat_template=own)
        self.assertIn(f"this run takes data.chat_template {own}", log)

    def test_eval_reads_data_under_other_names(self):
        self.data.write_text(json.dumps({"turns": [{**turn, "role": turn["role"].upper()} for turn in TURNS]}) + "\n")
        names = ("messages=turns", "user=USER", "assistant=ASSISTANT")
        options = [part for name in names for part in ("--map", name)]
        out, _ = self.output("eval", "--model", self.model, "--data", self.data, "--task", "loss", "--json", *options)
        self.assertEqual(json.loads(out)["tokens"], len("yes") + 1)

    def test_merge_writes_it_and_it_alone(self):
        (self.model / "additional_chat_templates").mkdir()
        (self.model / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
        self.train(chat_template="chatml")
        merged = self.folder / "merged"
        self.output("merge", "--model", self.model, "--adapter", self.folder / "run" / "last", "--output", merged)
        self.assertEqual(self.rendered(merged), CHATML)
        tokens = json.loads((merged / "tokenizer.json").read_text())["added_tokens"]
        end = next(token["id"] for token in tokens if token["content"] == "<|im_end|>")
        self.assertIn(end, json.loads((merged / "generation_config.json").read_text())["eos_token_id"])
        self.assertEqual(self.rendered(merged, tools=[{"type": "function"}]), CHATML)

    def test_variables_become_the_template_s_defaults(self):
        self.train(chat_template_kwargs={"enable_thinking": True, "unused": [None, {"a": "\"}}%}\n\u00e4"}, -1.5]})
        self.assertEqual(self.prompt_tokens()[0], len("[user thinks]hi") + 1 + len("[assistant thinks]"))
        merged = self.folder / "merged"
        self.output("merge", "--model", self.model, "--adapter", self.folder / "run" / "last", "--output", merged)
        self.assertIn("[assistant thinks]yes", self.rendered(merged))
        self.assertIn("[assistant]yes", self.rendered(merged, chat_template_kwargs={"enable_thinking": False}))
        (self.model / "additional_chat_templates").mkdir()
        (self.model / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
        log = self.train("--set", "output_dir=" + str(self.folder / "two"), code=2,
                         chat_template_kwargs={"enable_thinking": True})
        self.assertIn("several chat templates", log)

    def test_the_model_s_own_template_is_not_stored(self):
        self.train(chat_template=str(self.model / "chat_template.jinja"))
        self.assertFalse((self.folder / "run" / "last" / "chat_template.jinja").exists())

    def test_a_run_is_not_resumed_with_other_text_files(self):
        self.train()
        template = self.model / "chat_template.jinja"
        template.write_text(OWN + "\n")
        self.assertIn("another tokenizer or chat template", self.train(code=2, resume=True))
        template.write_text(OWN)
        self.train(resume=True)
        tokenizer = self.model / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text() + " ")
        self.assertIn("another tokenizer or chat template", self.train(code=2, resume=True))


if __name__ == "__main__":
    unittest.main()
