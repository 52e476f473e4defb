"""`lema chat` and `lema eval` on a byte model of zeros, which says token 0, a zero byte, for ever: options, messages,
output forms and interruption."""
import json
import os
import pathlib
import pty
import resource
import signal
import subprocess
import tempfile
import unittest

from tiny_folder import poison_token, write_byte_model

LEMA = os.environ["LEMA"]
ZEROS = "\0\0\0"
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def run(*arguments, text=None):
    return subprocess.run([LEMA, *map(str, arguments)], capture_output=True, text=True, input=text)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.temporary.name)
        cls.model = write_byte_model(cls.path / "model", TEMPLATE, max_position_embeddings=512)
        cls.plain = write_byte_model(cls.path / "plain", max_position_embeddings=512)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def file(self, name, text):
        (self.path / name).write_text(text)
        return self.path / name


class ChatTest(Case):
    def test_prompt(self):
        result = run("chat", "--model", self.model, "--prompt", "hi", "--greedy", "--max-new-tokens", 4, "--show-ids")
        self.assertEqual((result.returncode, result.stdout), (0, "\0\0\0\0\nids: 0 0 0 0\n"), result.stderr)

    def test_json_turns_of_one_conversation(self):
        result = run("chat", "--model", self.model, "--json", "--greedy", "--max-new-tokens", 3, text="hi\n\nmore\n")
        turns = [json.loads(line) for line in result.stdout.splitlines()]
        self.assertEqual([t["content"] for t in turns], [ZEROS, ZEROS])
        self.assertEqual(turns[0]["role"], "assistant")
        self.assertEqual(turns[0]["ids"], [0, 0, 0])
        self.assertEqual(turns[0]["finish"], "length")
        # user\nhi and the marks around it; then the reply, its end and the next turn.
        self.assertEqual(turns[0]["prompt_tokens"], 1 + len("user\nhi") + 2 + 1 + len("assistant\n"))
        self.assertEqual(turns[1]["prompt_tokens"] - turns[0]["prompt_tokens"],
                         len(ZEROS) + 2 + 1 + len("user\nmore") + 2 + 1 + len("assistant\n"))

    def test_sampling_is_seeded(self):
        def ids(*options):
            return json.loads(run("chat", "--model", self.model, "--prompt", "hi", "--json", "--max-new-tokens", 20,
                                  "--temperature", 1, "--top-p", 1, *options).stdout)["ids"]
        self.assertEqual(ids("--seed", 1), ids("--seed", 1))
        self.assertNotEqual(ids("--seed", 1), ids("--seed", 2))
        # All logits are equal, so every token is among the k largest.
        self.assertGreater(len(set(ids("--seed", 1, "--top-k", 1))), 1)

    def test_defaults_of_generation_config(self):
        folder = write_byte_model(self.path / "configured", TEMPLATE)
        (folder / "generation_config.json").write_text('{"temperature": -1, "top_p": 0.5}')
        result = run("chat", "--model", folder, "--prompt", "hi")
        self.assertEqual(result.returncode, 2)
        self.assertIn("temperature is -1", result.stderr)
        self.assertEqual(run("chat", "--model", folder, "--prompt", "hi", "--temperature", 0, "--max-new-tokens", 2).stdout,
                         "\0\0\n")

    def test_plain_text_model(self):
        result = run("chat", "--model", self.plain, "--greedy", "--max-new-tokens", 2, "--json", text="ab\ncd\n")
        self.assertEqual(result.stderr.count("no chat template"), 1)
        self.assertEqual([json.loads(line)["prompt_tokens"] for line in result.stdout.splitlines()], [2, 6])
        result = run("chat", "--model", self.plain, "--prompt", "a", "--system", "b")
        self.assertEqual(result.returncode, 2)
        self.assertIn("chat template", result.stderr)

    def test_context(self):
        result = run("chat", "--model", self.model, "--prompt", "x" * 600)
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr, "a prompt of 6[0-9]{2} tokens .* context of 512")
        result = run("chat", "--model", self.model, "--prompt", "x", "--context", 513)
        self.assertEqual(result.returncode, 2)
        self.assertIn("512 positions", result.stderr)
        # What does not fit is not generated.
        result = run("chat", "--model", self.model, "--prompt", "x" * 470, "--greedy", "--json")
        turn = json.loads(result.stdout)
        self.assertEqual(turn["prompt_tokens"] + len(turn["ids"]), 512)

    def test_ram_is_a_size(self):
        for size in ("0", "-1", "much", "3QB"):
            result = run("chat", "--model", self.model, "--prompt", "x", "--ram", size)
            self.assertEqual(result.returncode, 2)
            self.assertIn(f"--ram: {size} is no size, such as 3GB or 2GiB", result.stderr)
        result = run("chat", "--model", self.model, "--prompt", "x", "--max-new-tokens", 1, "--device", "cpu", "--ram", "1GB")
        self.assertEqual(result.returncode, 0, result.stderr)  # a CPU reads the mapped file

    def test_interrupted_reply(self):
        folder = write_byte_model(self.path / "long", TEMPLATE, max_position_embeddings=65536)
        command = [LEMA, "chat", "--model", str(folder), "--prompt", "x", "--greedy", "--context", "60000",
                   "--max-new-tokens", "59000"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.assertEqual(process.stdout.read(1), b"\0")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, err)
        self.assertLess(len(out), 59000)

    def test_terminal(self):
        saved = self.path / "saved.json"
        master, slave = pty.openpty()
        process = subprocess.Popen([LEMA, "chat", "--model", str(self.model), "--greedy", "--max-new-tokens", "3"],
                                   stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        os.close(slave)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        for line in ("/system short", "hi", "/nonsense", f"/save {saved}", "/reset", "you", "/quit"):
            os.write(master, (line + "\n").encode())
        out, err = process.communicate(timeout=60)
        os.close(master)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(out.decode().count(ZEROS + "\n"), 2)
        self.assertIn(b"unknown command /nonsense", err)
        self.assertEqual([m["content"] for m in json.loads(saved.read_text())["messages"]], ["short", "hi", ZEROS])


class EvalTest(Case):
    def rows(self, *rows):
        return self.file("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def match(self, rows, *options):
        return run("eval", "--model", self.model, "--data", rows, "--task", "match", "--max-new-tokens", 3, *options)

    def test_match(self):
        user = [{"role": "user", "content": "hi"}]
        rows = self.rows({"messages": user}, {"messages": user, "match": "x"}, {"messages": user, "match": r"^\x00{3}$"})
        summary = json.loads(self.match(rows, "--pattern", r"\x00\x00", "--json", "--output", self.path / "out.jsonl").stdout)
        self.assertEqual((summary["rows"], summary["matched"], summary["stop_share"]), (3, 2, 0))
        self.assertAlmostEqual(summary["match_share"], 2 / 3)
        self.assertAlmostEqual(summary["distinct_share"], 1 / 3)
        self.assertEqual([json.loads(line) for line in (self.path / "out.jsonl").read_text().splitlines()],
                         [{"line": i + 1, "reply": ZEROS, "matched": i != 1, "finish": "length"} for i in range(3)])
        self.assertIn("matched 2 of 3 replies (66.7 %)", self.match(rows, "--pattern", r"\x00\x00").stdout)
        summary = json.loads(self.match(rows, "--pattern", r"\x00\x00", "--json", "--require-stop").stdout)
        self.assertEqual(summary["matched"], 0)

    def test_match_errors(self):
        rows = self.rows({"messages": [{"role": "user", "content": "hi"}]})
        for options, code, message in (([], 2, "--pattern"), (["--pattern", "("], 3, "bad pattern"),
                                       (["--pattern", "a", "--output", rows], 2, "--output is the data file")):
            result = self.match(rows, *options)
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertIn(message, result.stderr)

    def test_match_prompts_beyond_the_positions_are_named_before_any_work(self):
        rows = self.rows(*({"messages": [{"role": "user", "content": "x" * size}]} for size in (3, 600, 700)))
        result = self.match(rows, "--pattern", "a")
        self.assertEqual(result.returncode, 3, result.stderr)
        self.assertRegex(result.stderr, r"rows.jsonl:2: the prompt has 6[0-9]{2} tokens; .* 512 positions")
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)

    def test_a_limit_of_tokens_beyond_all_numbers_is_the_positions(self):
        rows = self.rows({"messages": [{"role": "user", "content": "x" * 480}]})
        result = run("eval", "--model", self.model, "--data", rows, "--task", "match", "--pattern", "a",
                     "--max-new-tokens", 2**63 - 1, "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertLess(json.loads(result.stdout)["tokens"], 32)
        result = run("chat", "--model", self.model, "--prompt", "x" * 480, "--greedy", "--max-new-tokens", 2**63 - 1)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_a_loss_of_nan_is_a_numeric_failure(self):
        folder = poison_token(write_byte_model(self.path / "poisoned"), 7)
        rows = self.file("poison.jsonl", '{"tokens": [1, 2, 3]}\n{"tokens": [1, 7, 3]}\n')
        for output in ([], ["--output", self.path / "poisoned.jsonl", "--token-logprobs"]):
            result = run("eval", "--model", folder, "--data", rows, "--task", "loss", *output)
            self.assertEqual(result.returncode, 5, result.stderr)
            self.assertRegex(result.stderr, "poison.jsonl:2: the loss is -?nan")
        self.assertFalse((self.path / "poisoned.jsonl").exists())

    def test_an_output_that_cannot_be_written_is_not_there(self):
        rows = self.file("long.jsonl", json.dumps({"text": "x" * 100}) + "\n")  # 100 x 259 logits
        folder = self.path / "full"
        folder.mkdir()
        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        arguments = [LEMA, "eval", "--model", str(self.model), "--data", str(rows), "--task", "logits",
                     "--output", str(folder / "logits.safetensors")]
        result = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=limited)
        self.assertEqual((result.returncode, list(folder.iterdir())), (74, []), result.stderr)
        result = subprocess.run(arguments, capture_output=True, text=True)
        self.assertEqual((result.returncode, len(list(folder.iterdir()))), (0, 1), result.stderr)
        result = subprocess.run(arguments, capture_output=True, text=True)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("exists already", result.stderr)

    def test_loss(self):
        # Zero logits: every token costs log 259.
        rows = self.file("text.jsonl", '{"text": "abc"}\n{"text": "defgh"}\n')
        output = self.path / "losses.jsonl"
        result = run("eval", "--model", self.model, "--data", rows, "--task", "loss", "--output", output,
                     "--token-logprobs", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        summary = json.loads(result.stdout)
        self.assertEqual((summary["rows"], summary["tokens"]), (2, 8))
        self.assertAlmostEqual(summary["perplexity"], 259, places=2)
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        self.assertEqual([(line["line"], line["tokens"], len(line["token_logprobs"])) for line in lines], [(1, 3, 3), (2, 5, 5)])


if __name__ == "__main__":
    unittest.main()
