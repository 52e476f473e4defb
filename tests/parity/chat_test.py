"""Chat and evaluation against transformers and PEFT, live: greedy replies over several turns, matching in batches, loss and
log-probabilities of tokens, on tiny random models."""
import json
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import torch
from transformers import PreTrainedTokenizerFast

from torch_models import (GPT2_LINEARS, LLAMA3_ROPE, LLAMA_LINEARS, PHI3_LINEARS, alone, forget, gpt2, lema, llama, longrope,
                          mistral, phi3, qwen3, random_rows, randomised, rope, save, with_adapter, write_rows)

TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
STOPS = [256, 258]  # <|endoftext|>, <|im_end|>
TURNS = ["What is the sea?", "Caf\u00e9 au lait \u2603", "And then?"]
# Several heads of one key-value head, positions past the original ones, biases, GPT-2's Conv1D, windows shorter than a
# prompt, and the two RoPE kinds that rotate by length, whose replies pass the length where that begins.
MODELS = {
    "llama": (lambda: llama(max_position_embeddings=1024, rope_parameters=LLAMA3_ROPE, attention_bias=True),
              LLAMA_LINEARS),
    "mistral": (lambda: mistral(max_position_embeddings=1024, sliding_window=20), LLAMA_LINEARS),
    "qwen3": (lambda: qwen3(max_position_embeddings=1024), LLAMA_LINEARS),
    "dynamic": (lambda: llama(max_position_embeddings=45, **rope("dynamic", factor=9.0)), LLAMA_LINEARS),
    "phi3": (lambda: phi3(max_position_embeddings=1024, original_max_position_embeddings=45,
                          **longrope(3, partial_rotary_factor=0.75)), PHI3_LINEARS),
    "gpt2": (lambda: gpt2(n_positions=1024), GPT2_LINEARS),
}


def chat_folder(model, folder):
    save(model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": STOPS}))
    return folder


def chat(folder, turns, *options):
    result = subprocess.run([os.environ["LEMA"], "chat", "--model", str(folder), "--json", "--greedy", "--compute", "f32",
                             *map(str, options)], input="\n".join(turns) + "\n", capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class Reference:
    """transformers' generate on the conversation as its own tokenizer and template render it."""

    def __init__(self, model, folder):
        self.model = model.eval()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=TEMPLATE,
                                                 clean_up_tokenization_spaces=False)

    def prompt(self, messages):
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def reply(self, messages, tokens):
        prompt = torch.tensor([self.prompt(messages)])
        with torch.no_grad():
            ids = forget(self.model).generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                      max_new_tokens=tokens, eos_token_id=STOPS, pad_token_id=0)
        return ids[0, prompt.shape[1]:].tolist()

    def text(self, ids):
        return self.tokenizer.decode(ids[:-1] if ids[-1] in STOPS else ids, skip_special_tokens=True)


class ChatTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.path = pathlib.Path(temporary.name)

    def models(self):
        for name, (make, linears) in MODELS.items():
            torch.manual_seed(1)
            with self.subTest(name):
                model = randomised(make(), 7)
                yield name, model, chat_folder(model, self.path / name), linears

    def check_turns(self, reference, replies, system=None):
        messages = [{"role": "system", "content": system}] if system else []
        self.assertEqual(len(replies), len(TURNS))
        for user, reply in zip(TURNS, replies):
            messages.append({"role": "user", "content": user})
            self.assertEqual(reply["prompt_tokens"], len(reference.prompt(messages)))
            expected = reference.reply(messages, 24)
            self.assertEqual(reply["ids"], expected)
            self.assertEqual(reply["content"], reference.text(expected))
            self.assertEqual(reply["finish"], "stop" if expected[-1] in STOPS else "length")
            messages.append({"role": "assistant", "content": reply["content"]})

    def test_three_greedy_turns(self):
        for _, model, folder, _ in self.models():
            reference = Reference(model, folder)
            self.check_turns(reference, chat(folder, TURNS, "--max-new-tokens", 24))
            self.check_turns(reference, chat(folder, TURNS, "--max-new-tokens", 24, "--system", "Be brief."), "Be brief.")

    def test_adapter(self):
        for name, model, folder, linears in self.models():
            plain = chat(folder, TURNS, "--max-new-tokens", 24)
            peft = with_adapter(model, linears)
            peft.save_pretrained(self.path / f"{name}-adapter")
            adapted = chat(folder, TURNS, "--max-new-tokens", 24, "--adapter", self.path / f"{name}-adapter")
            self.check_turns(Reference(peft, folder), adapted)
            self.assertNotEqual([r["ids"] for r in plain], [r["ids"] for r in adapted])

    def test_match_in_batches(self):
        for _, model, folder, _ in self.models():
            reference = Reference(model, folder)
            conversations = [[{"role": "user", "content": word * (1 + i)}] for i, word in enumerate(TURNS * 3)]
            expected = [reference.reply(messages, 24) for messages in conversations]
            # What stands for a match: the first byte of the reply, in three rows that of another one.
            rows = write_rows(self.path / "rows.jsonl", [{"messages": m} for m in conversations])
            outputs = []
            for batch in (1, 4, 16):
                output = self.path / f"replies-{batch}.jsonl"
                summary = json.loads(lema("eval", "--model", folder, "--data", rows, "--task", "match", "--pattern", r"\A[ -~]",
                                          "--batch", batch, "--max-new-tokens", 24, "--compute", "f32", "--output", output,
                                          "--json").stdout)
                outputs.append([json.loads(line) for line in output.read_text().splitlines()])
                self.assertEqual(summary["rows"], 9)
                self.assertEqual(summary["matched"], sum(row["matched"] for row in outputs[-1]))
                self.assertEqual(summary["tokens"], sum(map(len, expected)))
                self.assertEqual(summary["stop_share"], sum(ids[-1] in STOPS for ids in expected) / 9)
            self.assertEqual(outputs[0], outputs[1])
            self.assertEqual(outputs[0], outputs[2])
            for row, ids in zip(outputs[0], expected):
                text = reference.tokenizer.decode(ids[:-1] if ids[-1] in STOPS else ids, skip_special_tokens=False)
                self.assertEqual(row["reply"], text)
                self.assertEqual(row["matched"], bool(text) and " " <= text[0] <= "~")

    def test_loss_and_logprobs(self):
        for _, model, folder, _ in self.models():
            rows = random_rows(60, 5, longest=90)
            data = write_rows(self.path / "rows.jsonl", rows)
            output = self.path / "losses.jsonl"
            summary = json.loads(lema("eval", "--model", folder, "--data", data, "--task", "loss", "--compute", "f32",
                                      "--token-logprobs", "--output", output, "--json").stdout)
            total, count = 0.0, 0
            for number, (row, line) in enumerate(zip(rows, output.read_text().splitlines(), strict=True), 1):
                result = json.loads(line)
                with torch.no_grad():
                    logprobs = torch.log_softmax(alone(model, row).double(), -1)
                expected = [logprobs[t, i].item() for t, i in enumerate(row["input_ids"][1:])
                            if row["labels"][t + 1] != -100]
                self.assertEqual((result["line"], result["tokens"]), (number, len(expected)))
                for got, want in zip(result["token_logprobs"], expected, strict=True):
                    self.assertLess(abs(got - want), 1e-5)
                self.assertLess(abs(result["loss"] + sum(expected) / len(expected)), 1e-5)
                total -= sum(expected)
                count += len(expected)
            self.assertEqual(summary["tokens"], count)
            self.assertLess(abs(summary["loss"] - total / count), 1e-5)
            self.assertLess(abs(summary["perplexity"] / math.exp(total / count) - 1), 1e-5)


if __name__ == "__main__":
    unittest.main()
