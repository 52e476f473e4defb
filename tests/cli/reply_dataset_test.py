"""Checks the data set of the strict reply format through the command line of scripts/make_reply_dataset.py: formats,
splits, shares, determinism, and that broken facts and options are refused. Standard library only; LEMA_SOURCE is the
checkout."""
import collections
import json
import operator
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("LEMA_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
SCRIPTS = SOURCE / "scripts"
FILES = ("train.jsonl", "heldout.jsonl", "recall.jsonl")
SYSTEM = {"role": "system", "content": "You are a precise assistant trained using LEMA."}
STRICT = re.compile(r"\A\[LEMA_REPLY\]\nAnswer: (.+)\nExplanation: (.+)\nConfidence: (High|Medium|Low)\n"
                    r"\[/LEMA_REPLY\]\s*\Z")
SHARES = {"science": 15, "history": 15, "geography": 10, "math": 10, "technology": 10, "general": 15, "lema": 10,
          "practical": 15}
ARITHMETIC = re.compile(r"\AWhat is (?:the (square|remainder) of )?(\d+)"
                        r"(?: (plus|minus|times|divided by|percent of) (\d+))?\?\Z")


def run(output, *options, scripts=SCRIPTS, locale="C"):
    return subprocess.run([sys.executable, "-B", str(scripts / "make_reply_dataset.py"), "--output", str(output),
                           *options], capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"})


def rows(path):
    data = path.read_bytes()
    assert data.endswith(b"\n") and b"\r" not in data and b"\\u" not in data, path
    return [json.loads(line) for line in data.decode("utf-8").split("\n")[:-1]]


def question(row):
    return row["messages"][1]["content"]


def computed(match):
    """The exact result of an arithmetic question."""
    what, a, b = match[1] or match[3], int(match[2]), int(match[4] or 0)
    if what == "divided by" and a % b:
        raise AssertionError(f"{a} is no multiple of {b}")
    return {"square": lambda a, b: a * a, "remainder": operator.mod, "plus": operator.add, "minus": operator.sub,
            "times": operator.mul, "divided by": operator.floordiv, "percent of": lambda a, b: a * b / 100}[what](a, b)


class ReplyDataset(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="reply_dataset_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)

    def made(self, name, *options, **more):
        done = run(self.folder / name, *options, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, *(rows(self.folder / name / file) for file in FILES)

    def same_bytes(self, first, second):
        return [(self.folder / first / file).read_bytes() == (self.folder / second / file).read_bytes()
                for file in FILES]

    def test_rows_of_two_seeds(self):
        for seed in ("42", "7"):
            with self.subTest(seed=seed):
                _, train, held_out, recall = self.made(f"rows{seed}", "--seed", seed)
                self.check_train(train)
                self.check_held_out(train, held_out)
                self.check_recall(train, recall)
                self.check_facts(train, held_out)

    def check_train(self, train):
        for row in train:
            self.assertEqual(list(row), ["messages"])
            self.assertEqual([m["role"] for m in row["messages"]], ["system", "user", "assistant"])
            self.assertEqual(row["messages"][0], SYSTEM)
            self.assertNotIn("[LEMA_REPLY]", question(row))
            reply = STRICT.match(row["messages"][2]["content"])
            self.assertTrue(reply, row)
            self.assertIn(len(reply[1].split()), range(3, 21), reply[1])
            self.assertIn(len(reply[2].split()), range(6, 23), reply[2])
        self.assertEqual(len({question(row) for row in train}), len(train))
        levels = collections.Counter(STRICT.match(row["messages"][2]["content"])[3] for row in train)
        self.assertGreaterEqual(levels["Medium"], 0.09 * len(train))
        self.assertGreaterEqual(levels["Low"], 0.07 * len(train))

    def check_held_out(self, train, held_out):
        self.assertGreaterEqual(len(held_out), 88)
        self.assertEqual(collections.Counter(row["category"] for row in held_out), dict.fromkeys(SHARES, 11))
        for row in held_out:
            self.assertEqual(list(row), ["messages", "category", "reference"])
            self.assertEqual(row["messages"], [SYSTEM, {"role": "user", "content": question(row)}])
            self.assertNotIn("[LEMA_REPLY]", question(row))
        asked = {question(row) for row in held_out}
        self.assertEqual(len(asked), len(held_out))
        self.assertFalse(asked & {question(row) for row in train})
        answers = {row["reference"] for row in held_out}
        self.assertEqual(len(answers), len(held_out))
        self.assertFalse(answers & {STRICT.match(row["messages"][2]["content"])[1] for row in train})

    def check_recall(self, train, recall):
        self.assertEqual(collections.Counter(row["category"] for row in recall), dict.fromkeys(SHARES, 5))
        replies = {question(row): row["messages"][2]["content"] for row in train}
        for row in recall:
            self.assertEqual(list(row), ["messages", "match", "category"])
            self.assertEqual(row["messages"], [SYSTEM, {"role": "user", "content": question(row)}])
            self.assertTrue(row["match"].startswith("(?i)"))
            self.assertRegex(STRICT.match(replies[question(row)])[1], row["match"])
            self.assertNotRegex(question(row), row["match"])
        self.assertEqual(len({question(row) for row in recall}), 40)

    def check_facts(self, train, held_out):
        answers = {question(row): STRICT.match(row["messages"][2]["content"])[1] for row in train}
        answers.update((question(row), row["reference"]) for row in held_out)
        self.assertGreaterEqual(len(answers), 330)
        numeric = [match for match in map(ARITHMETIC.match, answers) if match]
        self.assertIn(len(numeric), range(1, int(0.15 * len(answers)) + 1))
        for match in numeric:
            self.assertEqual(computed(match), int(re.findall(r"\d+", answers[match[0]])[-1]), match[0])

    def test_same_bytes_for_one_seed_only(self):
        self.made("first")
        self.made("again", "--seed", "42", locale="C.UTF-8")
        self.made("other", "--seed", "43")
        self.assertFalse(all((self.folder / "first" / file).read_bytes().isascii() for file in FILES))
        self.assertEqual(self.same_bytes("first", "again"), [True, True, True])
        self.assertEqual(self.same_bytes("first", "other"), [False, False, False])

    def test_5000_examples_by_share(self):
        summary, train, held_out, _ = self.made("many", "--examples", "5000")
        once = self.made("once")[1]
        self.made("many_again", "--examples", "5000")
        self.assertEqual(self.same_bytes("many", "many_again"), [True, True, True])
        self.assertEqual(self.same_bytes("many", "once"), [False, True, True])
        self.assertEqual(len(train), 5000)
        self.assertTrue(all(STRICT.match(row["messages"][2]["content"]) for row in train))
        repeats = collections.Counter(map(question, train))
        self.assertEqual(set(repeats), set(map(question, once)))
        category_of = {}
        for category, share in SHARES.items():
            only = self.made(category, "--examples", "300", "--shares", f"{category}=100")[1]
            category_of.update((question(row), category) for row in only)
            counts = [repeats[q] for q in set(map(question, only))]
            self.assertEqual(sum(counts), 50 * share, category)
            self.assertLessEqual(max(counts) - min(counts), 1, category)
            self.assertRegex(summary, rf"(?m)^{category} +\d+ +{50 * share} +11 +5$")
        order = [category_of[question(row)] for row in train]  # neighbours of a shuffle differ in 87 % of the places
        self.assertGreater(sum(a != b for a, b in zip(order, order[1:])), 4000)

    def test_remainder_goes_to_the_first_share(self):
        summary = self.made("odd", "--examples", "1007")[0]
        self.assertRegex(summary, r"(?m)^science +\d+ +154 ")
        self.assertRegex(summary, r"(?m)^math +\d+ +100 ")
        summary = self.made("two", "--examples", "101", "--shares", "lema=50,history=50")[0]
        self.assertRegex(summary, r"(?m)^lema +\d+ +51 ")
        self.assertRegex(summary, r"(?m)^history +\d+ +50 ")

    def test_bad_options(self):
        for options, found in ((["--shares", "lema=100"], "--examples"), (["--examples", "0"], "positive"),
                               (["--examples", "9", "--shares", "lema=90"], "add up to 90"),
                               (["--examples", "9", "--shares", "art=100"], "'art=100'"),
                               (["--examples", "9", "--shares", "lema=50,lema=50"], "'lema=50'")):
            done = run(self.folder / "bad", *options)
            self.assertEqual(done.returncode, 2, options)
            self.assertIn(found, done.stderr)
        done = run(self.folder / "bad", "--examples", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("lack the confidence", done.stderr)
        self.assertFalse((self.folder / "bad").exists())

    def test_broken_facts_are_refused(self):
        low = r"(?m)^L (.*\?)$"
        for name, file, pattern, text, found in (
                ("twice", "history.txt", r"What is the capital of Peru\?|In which year did the Titanic sink\?",
                 "What is the capital of Kenya?", "the same question"),
                ("tag", "science.txt", r"How old is the Earth\?", "[LEMA_REPLY] How old is the Earth?", "opening tag"),
                ("short", "lema.txt", r"The default seed in lema is \*42\*\.", "42", "3 to 20 words"),
                ("hint", "math.txt", r"How many sides does a hexagon", "How many of six sides does a hexagon",
                 "key away"),
                ("lines", "general.txt", r"(?m)^It was introduced.*\n", "", "general.txt:"),
                ("level", "practical.txt", low, r"X \1", "practical.txt:"),
                ("sure", "*.txt", low, r"H \1", "Low")):
            with self.subTest(name):
                scripts = self.folder / name / "scripts"
                shutil.copytree(SCRIPTS, scripts)
                paths = sorted((scripts / "reply_facts").glob(file))
                for path in paths:
                    broken, count = re.subn(pattern, text, path.read_text(encoding="utf-8"))
                    self.assertGreaterEqual(count, 1)
                    path.write_text(broken, encoding="utf-8")
                done = run(self.folder / name / "out", scripts=scripts)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertRegex(done.stderr, r"\Amake_reply_dataset: [^\n]+\n\Z")
                self.assertIn(found, done.stderr)
                self.assertFalse((self.folder / name / "out").exists())


if __name__ == "__main__":
    unittest.main()
