"""Data files through the real binary: `lema data` and `lema train --dry-run`. Every shape and file kind with its mask, one wrong
row or file at a time with its place, map, skip and quarantine, evaluation rows by content, the cache, and the painted
examples. Standard library only. LEMA is the binary."""
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import tiny_folder
from process_memory import BOUNDED

LEMA = os.environ["LEMA"]
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content or '') }}"
          "{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments.x }}{% endfor %}"
          "{{ '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}
GOOD = {
    "text": {"text": "hi"},
    "completion": {"prompt": "ask", "completion": " answer"},
    "chat": {"messages": [USER, ANSWER]},
    "alpaca": {"instruction": "do", "input": "", "output": "done"},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
    "tokens": {"tokens": [1, 2, 3]},
}


def chat(*messages, **more):
    return {"messages": list(messages), **more}


def turns(*pairs, **more):
    return {"conversations": [{"from": a, "value": b} for a, b in pairs], **more}


def call(**body):
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": body}]}


# One wrong row of each shape, after a good one: what the message must say.
WRONG_ROWS = {
    "text": [({"text": 1}, "text: found integer, expected string"), ({}, 'no field "text"'), ([], "found array, expected object"),
             ({"text": None}, "text: found null"), ("x", "found string, expected object"), (3, "found integer, expected object")],
    "completion": [({"prompt": "x"}, 'no field "completion"'), ({"completion": "x"}, 'no field "prompt"'),
                   ({"prompt": "x", "completion": ""}, "completion: the text is empty"),
                   ({"prompt": 1, "completion": "x"}, "prompt: found integer"),
                   ({"prompt": "x", "completion": "y", "system": "z"}, "system: beside a prompt"),
                   ({"prompt": "x", "completion": 1}, "completion: found integer"),
                   ({"prompt": [USER], "completion": "x"}, "completion: found string, expected array"),
                   ({"prompt": [USER], "completion": []}, "completion: the array is empty"),
                   ({"prompt": [USER], "completion": [USER]}, "no trained token")],
    "chat": [(chat(), "messages: the array is empty"), ({"messages": "x"}, "messages: found string"),
             (chat(3), "messages[0]: found integer"), (chat({"content": "x"}), 'messages[0]: no field "role"'),
             (chat({"role": 1, "content": "x"}), "messages[0].role: found integer"),
             (chat({"role": "bot", "content": "x"}), 'messages[0].role: found "bot"'),
             (chat({"role": "user"}), 'messages[0]: no field "content"'),
             (chat(USER, {"role": "assistant", "content": ["x"]}), "messages[1].content: found array"),
             (chat(USER), "no trained token: no message of the assistant"),
             (chat(USER, {**ANSWER, "content": ""}), "messages[1].content: the text is empty"),
             (chat(USER, ANSWER, tools=3), "tools: found integer, expected array"),
             (chat(USER, ANSWER, tools="[3"), "tools: not JSON"), (chat(USER, ANSWER, tools=[3]), "tools[0]: found integer"),
             (chat(USER, ANSWER, chat_template_kwargs=[]), "chat_template_kwargs: found array"),
             (chat(USER, ANSWER, chat_template_kwargs={"messages": 1}), "is the conversation's own"),
             (chat(USER, {**ANSWER, "weight": 2}), "messages[1].weight: found 2, expected 0 or 1"),
             (chat(USER, {**ANSWER, "weight": 0}), "no trained token"),
             (chat(USER, {**ANSWER, "tool_calls": 3}), "messages[1].tool_calls: found integer"),
             (chat(USER, {**ANSWER, "tool_calls": [3]}), "messages[1].tool_calls[0]: found integer"),
             (chat(USER, call(arguments={})), 'the call has no "name"'),
             (chat(USER, call(name="f", arguments="{")), "messages[1].tool_calls[0].arguments: not JSON"),
             (chat(USER, call(name="f", arguments="[]")), "arguments: the text says array, expected object"),
             (chat(USER, {**ANSWER, "function_call": 3}), "messages[1].function_call: found integer"),
             (chat(USER, {**call(name="f"), "function_call": {"name": "f"}}), 'messages[1]: both "tool_calls" and "function_call"'),
             (chat({"role": "system", "content": "a"}, USER, ANSWER, system="b"), "different system prompts"),
             (chat(USER, ANSWER, system=3), "system: found integer")],
    "alpaca": [({"instruction": "x"}, 'no field "output"'), ({"output": "x"}, 'no field "instruction"'),
               ({"instruction": "", "output": "x"}, "instruction: the text is empty"),
               ({"instruction": "x", "output": ""}, "output: the text is empty"),
               ({"instruction": "x", "input": 3, "output": "y"}, "input: found integer"),
               ({"instruction": "x", "output": "y", "system": []}, "system: found array"),
               ({"instruction": "x", "output": "y", "tools": 3}, "tools: found integer"),
               ({"instruction": "x", "output": "y", "history": "z"}, "history: found string"),
               ({"instruction": "x", "output": "y", "history": [["a"]]}, "history[0]: expected two strings")],
    "sharegpt": [(turns(), "conversations: the array is empty"), ({"conversations": 3}, "conversations: found integer"),
                 ({"conversations": [3]}, "conversations[0]: found integer"),
                 ({"conversations": [{"value": "x"}]}, 'conversations[0]: no field "from"'),
                 ({"conversations": [{"from": "human"}]}, 'conversations[0]: no field "value"'),
                 ({"conversations": [{"from": "human", "value": 3}]}, "conversations[0].value: found integer"),
                 (turns(("alien", "x")), 'conversations[0].from: found "alien"'),
                 (turns(("human", "x")), "no trained token"),
                 (turns(("human", "x"), ("function_call", "{")), "conversations[1].value: not JSON"),
                 (turns(("human", "x"), ("function_call", '{"arguments": {}}')), 'the call has no "name"'),
                 ({"conversations": [USER, {"role": "function_call"}]}, 'conversations[1]: no field "content"'),
                 ({"conversations": [USER, {**ANSWER, "tool_calls": 3}]}, "messages[1].tool_calls: found integer"),
                 (turns(("system", "a"), ("human", "x"), ("gpt", "y"), system="b"), "different system prompts")],
    "tokens": [({"tokens": []}, "no trained token among 0"), ({"tokens": [1]}, "no trained token among 1"),
               ({"tokens": [1, "2"]}, "tokens[1]: found string"), ({"tokens": [1, 2.0]}, "tokens[1]: found number"),
               ({"tokens": [1, -1]}, "tokens[1]: found -1"), ({"tokens": [1, 10 ** 6]}, "tokens[1]: found 1000000"),
               ({"tokens": [1, True]}, "tokens[1]: found -1"),
               ({"input_ids": [1, 2], "attention_mask": [1, 0]}, "attention_mask[1]: found 0, expected 1"), ({"tokens": [1], "input_ids": [1]}, 'both "tokens"'),
               ({"tokens": [1, 2], "labels": [1]}, "labels: found 1 elements"),
               ({"tokens": [1, 2], "labels": [1, 3]}, "labels[1]: found 3"),
               ({"tokens": [1, 2], "mask": [1, 2]}, "mask[1]: found 2"),
               ({"tokens": [1, 2], "labels": [1, 2], "mask": [1, 1]}, 'both "labels" and "mask"')],
}

ROW = b'{"text": "hi"}'
# Files that are wrong: name, bytes, where, what.
WRONG_FILES = [
    ("a.jsonl", b"", "", "the file has no rows"), ("a.jsonl", b"\n\r\n \n", "", "the file has no rows"),
    ("a.jsonl", ROW + b"\n{", ":2:", ""), ("a.jsonl", ROW + b" x\n", ":1:", ""), ("a.jsonl", b'{"text": "\xff"}', ":1:11", ""),
    ("a.jsonl", ROW + b"\n\xef\xbb\xbf" + ROW, ":2:1", ""), ("a.jsonl", b'{"text": "a\x00"}', ":1:12", "NUL byte"),
    ("a.jsonl", b'{"text": "x", "text": "y"}', ":1:", ""), ("a.jsonl", b'{"text": NaN}', ":1:10", ""),
    ("a.jsonl", b"[" * 40 + b"]" * 40, ":1:33", ""), ("a.jsonl", b'{"question": "x"}', ":1:1", "found fields question"),
    ("a.jsonl", json.dumps({f"f{i}": 1 for i in range(13)}).encode(), ":1:1", "found fields f0, f1, f2, f3, f4, f5, f6, f7, f8, "
     "f9 and 3 more, expected"),
    ("a.json", b"[", "", "the array ends in the middle"), ("a.json", b"[" + ROW, "", "the array ends in the middle"),
    ("a.json", b"[" + ROW + b",]", "", ""), ("a.json", b"[" + ROW + b" " + ROW + b"]", ":1:17", "expected ',' or ']'"),
    ("a.json", b"[" + ROW + b"] x", "", "text after the end"), ("a.json", b"[\n" + ROW + b",\n 3]", ":3:2", "found integer"),
    ("a.json", b"[]", "", "the file has no rows"),
    ("a.csv", b"", "", "the file has no rows"), ("a.csv", b"text\n", "", "the file has no rows"),
    ("a.csv", b"text,text\na,b\n", ":1:1", 'two columns "text"'), ("a.csv", b"text,\na,b\n", ":1:1", "column 2 has no name"),
    ("a.csv", b"text,b\nx\n", ":2:1", "found 1 fields, expected 2"), ("a.csv", b'text\n"x\n', ":2:1", "never closed"),
    ("a.csv", b'text\n"x"y\n', ":2:4", "text after a closing quote"), ("a.csv", b'text\nx"y\n', ":2:2", "a quote inside"),
    ("a.csv", b"text\n" + b"," * 5000, ":2:1", "more than 4096 fields"),
    ("a.csv", b"text\n\xff\n", ":2:1", "not valid UTF-8"),
    ("a.csv", b"question\nx\n", ":2:1", "found fields question"),
    ("a.txt", b"", "", "the file has no rows"), ("a.txt", b"fine\n\xff\n", ":2:1", "not valid UTF-8"),
    ("a.txt", b"a\x00b\n", ":1:1", "NUL byte"),
    ("a.jsonl.gz", ROW, "", ""), ("a.jsonl.gz", gzip.compress(ROW)[:-3], "", ""),
    ("a.jsonl.gz", gzip.compress(ROW)[:-8] + b"\x00" * 8, "", ""), ("a.jsonl.gz", gzip.compress(b" " * (1 << 20)) * 80, "", ""),
    ("a.jsonl", gzip.compress(ROW), "", ""), ("a.jsonl", b"PAR1xxxxPAR1", "", ""),
    ("a.parquet", b"PAR1xxxxPAR1", "", "this is a Parquet file"),
    ("a.json", b'{\n  "text": "x"\n}\n', ":1:1", "a JSON value over several lines"),
    ("a.jsonl", b'[\n' + ROW + b"\n]\n", ":1:1", "a JSON value over several lines"),
    ("a.txt", b"one\rtwo\r", "", "its lines end in CR alone"), ("a.csv", b"text\rone\r", "", "its lines end in CR alone"),
    ("a.tsv", ROW, "", "expected .jsonl"), ("a", ROW, "", "expected .jsonl"),
]


class Data(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = pathlib.Path(tempfile.mkdtemp(prefix="lema_data_"))
        cls.addClassCleanup(shutil.rmtree, cls.base, True)
        cls.model = tiny_folder.write_byte_model(cls.base / "model", CHATML)

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.base))

    def write(self, content, name="rows.jsonl"):
        path = self.folder / name
        if not isinstance(content, bytes):
            content = "".join(json.dumps(row) + "\n" for row in content).encode()
        path.write_bytes(content)
        return path

    def lema(self, data, *settings, flags=("--json",), command="data"):
        sets = [part for setting in settings for part in ("--set", setting)]
        return subprocess.run([LEMA, command, str(self.model), str(data), *sets, *flags], capture_output=True, text=True,
                              encoding="utf-8", timeout=60, env={**os.environ, "NO_COLOR": "1"})

    def summary(self, data, *settings):
        run = self.lema(data, *settings)
        self.assertEqual(run.returncode, 0, run.stderr)
        return json.loads(run.stdout)

    def rows(self, data, *settings):
        """Ids, mask and place of every row."""
        out = self.folder / "ids"
        run = self.lema(data, *settings, flags=("--json", "--rows", str(out)))
        self.assertEqual(run.returncode, 0, run.stderr)
        return [json.loads(line) for line in out.read_text().splitlines()]

    def refused(self, data, *settings, code=3, parts=()):
        run = self.lema(data, *settings)
        self.assertEqual(run.returncode, code, f"{run.stderr}\n{run.stdout}")
        self.assertEqual(run.stdout, "")
        for part in parts:
            self.assertIn(part, run.stderr)

    def trained_text(self, row):
        """What is trained of one row, stretches joined by |."""
        run = self.lema(self.write([row]), flags=())
        self.assertEqual(run.returncode, 0, run.stderr)
        return "|".join(part.split("\u27e7")[0] for part in run.stdout.split("\u27e6")[1:])

    def test_wrong_rows_are_named_by_file_and_line(self):
        self.assertGreaterEqual(sum(map(len, WRONG_ROWS.values())), 60)
        for shape, cases in WRONG_ROWS.items():
            for row, reason in cases:
                with self.subTest(shape=shape, row=row):
                    path = self.write([GOOD[shape], row, GOOD[shape]])
                    self.refused(path, parts=["1 of 3 rows cannot be used", f"{path}:2:1: ", reason])

    def test_wrong_files_are_named(self):
        for name, content, place, reason in WRONG_FILES:
            with self.subTest(name=name, content=content[:40]):
                path = self.write(content, name)
                self.refused(path, parts=[f"{path}{place}", reason])
        self.refused(self.folder / "absent.jsonl", parts=["absent.jsonl"])
        (self.folder / "empty").mkdir()
        self.refused(self.folder / "empty", parts=["the folder has no .jsonl"])

    def test_every_shape_is_told_and_its_mask_is_exact(self):
        for shape, row in GOOD.items():
            with self.subTest(shape=shape):
                file = self.summary(self.write([row]))["train"]["files"][0]
                self.assertEqual(file["format"], shape)
                self.assertIn(f"JSON lines, {shape} by ", file["verdict"])
        end = "<|im_end|>\n"
        # The first token of a row is never a target.
        self.assertEqual(self.trained_text(GOOD["text"]), "i<|endoftext|>")
        self.assertEqual(self.trained_text(GOOD["completion"]), " answer<|endoftext|>")
        self.assertEqual(self.trained_text(GOOD["chat"]), "yes" + end)
        self.assertEqual(self.trained_text(GOOD["alpaca"]), "done" + end)
        self.assertEqual(self.trained_text(GOOD["sharegpt"]), "yes" + end)
        self.assertEqual(self.trained_text({"prompt": [USER, ANSWER, USER], "completion": [{**ANSWER, "content": "no"}]}),
                         "no" + end)
        self.assertEqual(self.trained_text(chat(USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "content": "no"})), "no" + end)
        self.assertEqual(self.trained_text(chat(USER, call(name="f", arguments='{"x": "1"}'))), "f1" + end)
        self.assertEqual(self.trained_text(turns(("human", "a"), ("function_call", '{"name": "f", "arguments": {"x": "1"}}'),
                                                 ("observation", "2"), ("gpt", "b"))), f"f1{end}|b{end}")

    def test_train_on(self):
        path = self.write([chat(USER, ANSWER, USER, {**ANSWER, "content": "no"})])
        whole, last, every = (self.summary(path, f"data.train_on={value}")["train"]["trained_tokens"]
                              for value in ("completions", "last", "all"))
        self.assertEqual((whole, last), (5 + 4, 4))
        self.assertEqual(every, self.summary(path)["train"]["tokens"] - 1)

    def test_file_kinds_hold_the_same_rows(self):
        rows = [{"text": "a,b"}, {"text": 'say "x"'}, {"text": "\u00fc\u6cb3"}]
        kinds = {"r.jsonl": "".join(json.dumps(row) + "\n" for row in rows), "r.ndjson": "\ufeff" + "\r\n".join(map(json.dumps, rows)),
                 "r.json": json.dumps(rows, indent=1), "r.txt": "a,b\n\nsay \"x\"\r\n\u00fc\u6cb3",
                 "r.csv": 'text\r\n"a,b"\r\n"say ""x"""\r\n\u00fc\u6cb3\r\n'}
        figures = set()
        for name, text in kinds.items():
            for path in (self.write(text.encode(), name), self.write(gzip.compress(text.encode()), name + ".gz")):
                train = self.summary(path)["train"]
                figures.add((train["rows"], train["tokens"], train["trained_tokens"]))
        self.assertEqual(len(figures), 1, figures)
        self.refused(self.folder, parts=["files of several kinds"])
        for name in ("r.csv", "r.csv.gz", "r.txt", "r.txt.gz"):
            (self.folder / name).unlink()
        self.assertEqual(self.summary(self.folder)["train"]["rows"], 3 * 6)
        self.assertEqual(self.summary(self.folder)["train"]["repeated_rows"], 3 * 5)

    def test_a_folder_is_one_set_of_rows(self):
        self.write([GOOD["text"]], "train.jsonl")
        self.write([GOOD["text"]], "more.jsonl")
        self.assertEqual(self.summary(self.folder)["train"]["rows"], 2)
        for name in ("test.jsonl", "validation-00000-of-00001.JSONL", "my_dev.jsonl.gz"):
            with self.subTest(name=name):
                content = json.dumps(GOOD["text"]).encode()
                path = self.write(gzip.compress(content) if name.endswith("gz") else content, name)
                self.refused(self.folder, parts=[name, "several splits", "data.eval"])
                path.unlink()
        (self.folder / "lost.jsonl").symlink_to("nowhere")
        self.refused(self.folder, parts=["lost.jsonl: this is no file"])

    def test_names_in_upper_case_and_padded_gzip(self):
        self.assertEqual(self.summary(self.write([GOOD["text"]], "a.JSONL"))["train"]["rows"], 1)
        self.assertEqual(self.summary(self.write(gzip.compress(ROW) + b"\0" * 500, "a.jsonl.gz"))["train"]["rows"], 1)

    def test_records_that_cross_the_pieces_of_a_file(self):
        """Files are read in pieces of 1 MiB: every kind of file gives the same ids, quotes, line ends and characters of
        several bytes at the border included."""
        rows = [{"text": f"{i} " + "\u6cb3,\u00fc\" x" * (7500 + i)} for i in range(16)]
        quoted = "".join('"' + row["text"].replace('"', '""') + '"\r\n' for row in rows)
        kinds = {"r.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), "r.csv": "text\r\n" + quoted,
                 "r.json": json.dumps(rows, ensure_ascii=False), "r.txt": "".join(row["text"] + "\r\n" for row in rows)}
        seen = set()
        for name, text in kinds.items():
            self.assertGreater(len(text.encode()), 1 << 20)
            for path in (self.write(text.encode(), name), self.write(gzip.compress(text.encode()), name + ".gz")):
                out = self.folder / "ids"
                run = self.lema(path, "data.max_tokens=1000000", flags=("--json", "--rows", str(out)))
                self.assertEqual(run.returncode, 0, run.stderr)
                seen.add(tuple(tuple(json.loads(line)["ids"]) for line in out.read_text().splitlines()))
        self.assertEqual(len(seen), 1)
        self.assertEqual(list(seen.pop()[3][:-1]), list(rows[3]["text"].encode()))  # this tokenizer's ids are the bytes

    def test_each_answer_is_a_row_of_its_own(self):
        more = {"role": "user", "content": "and"}, {"role": "assistant", "content": "no"}
        path = self.write([chat(USER, ANSWER, *more), chat(USER, {**ANSWER, "weight": 0}, *more)])
        whole, each = self.rows(path), self.rows(path, "data.train_on=each")
        self.assertEqual([len(r["ids"]) for r in each][1:], [len(r["ids"]) for r in whole])
        self.assertEqual(each[0]["ids"], whole[0]["ids"][:len(each[0]["ids"])])
        self.assertEqual([r["line"] for r in each], [1, 1, 2])
        self.assertEqual(sum(sum(r["trained"]) for r in each[:2]), sum(whole[0]["trained"]))
        self.assertEqual(self.summary(path, "data.train_on=each")["train"]["repeated_rows"], 0)

    def test_what_is_not_read_or_not_written_is_said(self):
        path = self.write([{**GOOD["chat"], "id": 3, "source": "x"}, chat({"role": "system", "content": "gone"}, USER, ANSWER)])
        template = self.folder / "brief.jinja"
        template.write_text("{% for m in messages %}{% if m.role != 'system' %}{{ m.role + m.content + eos_token }}{% endif %}"
                            "{% endfor %}{% if add_generation_prompt %}assistant{% endif %}")
        said = self.lema(path, f"data.chat_template={template}").stderr
        self.assertIn("not used: id, source", said)
        self.assertIn("1 rows: the chat template leaves the system prompt out", said)
        self.assertIn("without the chat template", self.lema(self.write([GOOD["text"]], "t.jsonl")).stderr)

    def test_a_text_that_begins_with_bos_has_it_once(self):
        (self.model / "tokenizer.json").rename(self.model / "kept.json")
        tokenizer = json.loads((self.model / "kept.json").read_text())
        bos = tokenizer["added_tokens"][0]
        tokenizer["post_processor"] = {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": bos["content"], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {bos["content"]: {"id": bos["content"], "ids": [bos["id"]], "tokens": [bos["content"]]}}}
        (self.model / "tokenizer.json").write_text(json.dumps(tokenizer))
        try:
            rows = self.rows(self.write([{"text": "hi"}, {"text": bos["content"] + "hi"}]))
            self.assertEqual(rows[0]["ids"], rows[1]["ids"])
            self.assertEqual(rows[0]["ids"][0], bos["id"])
            row, = self.rows(self.write([{"prompt": bos["content"] + "a", "completion": "b"}], "p.jsonl"))
            self.assertEqual(row["ids"][:3], [bos["id"], 97, 98])
        finally:
            (self.model / "kept.json").replace(self.model / "tokenizer.json")

    def test_map_renames_fields_and_roles(self):
        path = self.write([{"dialog": [{"who": "Bob", "says": "hi"}, {"who": "Eve", "says": "yes"}]}])
        names = {"messages": "dialog", "role": "who", "content": "says", "user": "Bob", "assistant": "Eve"}
        train = self.summary(path, "data.map=" + json.dumps(names))["train"]
        self.assertEqual(train["trained_tokens"], 5)
        swapped = self.write([{"prompt": "same", "completion": "same"}], "swapped.jsonl")
        self.assertEqual(self.summary(swapped, 'data.map={"prompt": "completion", "completion": "prompt"}')["train"]["rows"], 1)
        self.refused(path, 'data.chat_template_kwargs={"messages": 1}', code=2, parts=["data.chat_template_kwargs.messages"])
        self.refused(path, 'data.map={"messages": "talk"}', parts=["found fields dialog"])
        self.refused(self.write([GOOD["text"]]), 'data.map={"system": "x"}', code=2, parts=["no row", '"x"'])
        self.refused(path, 'data.map={"mesages": "dialog"}', code=2, parts=['"mesages" is none of lema'])

    def test_skipped_rows_are_listed_and_bounded(self):
        path = self.write([GOOD["text"], {"text": 1}, GOOD["text"], {}])
        self.assertEqual(self.summary(path, "data.bad_rows=skip")["train"]["bad_rows"], 2)
        self.refused(path, "data.bad_rows=skip", "data.max_bad_rows=1", parts=["data.max_bad_rows is 1", f"{path}:4:1"])
        run = self.lema(path, "data.bad_rows=skip", "train.max_steps=1", f"output_dir={self.folder / 'run'}", flags=(),
                        command="train")
        self.assertEqual(run.returncode, 0, run.stderr)
        bad = [json.loads(line) for line in (self.folder / "run/bad_rows.jsonl").read_text().splitlines()]
        self.assertEqual([row["text"] for row in bad], ['{"text": 1}', "{}"])
        self.assertIn(f"{path}:2:1", bad[0]["reason"])

    def test_a_cut_conversation_must_still_teach_to_stop(self):
        long = {"role": "assistant", "content": "x" * 50}
        cut = ("data.max_tokens=60", "data.too_long=truncate")
        for row in (chat(USER, long), {"prompt": [USER], "completion": [long]},
                    {"instruction": "do", "output": long["content"]}, turns(("human", "hi"), ("gpt", long["content"]))):
            path = self.write([GOOD["chat"] if "messages" in row else row, row])
            self.refused(path, *cut, parts=[f"{path}:2:1: no trained stop token is left of"])
        # An earlier answer's end is still there; rows that are no conversation are only warned of.
        self.assertEqual(self.summary(self.write([chat(USER, ANSWER, USER, long)]), *cut)["train"]["endless_rows"], 1)
        self.assertEqual(self.summary(self.write([{"text": "x" * 99}]), *cut)["train"]["endless_rows"], 1)

    def test_a_role_order_that_the_template_refuses(self):
        strict = self.folder / "strict.jinja"
        strict.write_text("{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
                          "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + CHATML)
        path = self.write([GOOD["chat"], chat(USER, USER, ANSWER), chat(ANSWER, USER)])
        self.refused(path, f"data.chat_template={strict}",
                     parts=["2 of 3 rows", f"{path}:2:1: ", f"{path}:3:1: ", "roles must alternate"])

    def test_wrong_templates_are_named(self):
        """As the model's own: what cannot be read is named by file and line, what fails on a row by the row."""
        path = self.write([GOOD["chat"], GOOD["chat"]])
        template = self.model / "chat_template.jinja"
        self.addCleanup(template.write_text, CHATML)
        loop = "{% for a in range(99999) %}"
        unreadable = {b"\n{% if %}": "line 2", b"{% for x in y %}\nz": "line 2", b"{{ 'x' | nope }}": "no filter 'nope'",
                      b"\xff": "not valid UTF-8", b"{% include 'x' %}": "not supported", b"{{ (1": "line 1",
                      b"{{ " + b"(" * 200 + b"1" + b")" * 200 + b" }}": "nested deeper", b"a" * ((1 << 20) + 1): "at most 1048576", b"{# x": "line 1",
                      b"{% raw %}": "line 1", b"{{ 'x }}": "line 1", b"{% endfor %}": "line 1"}
        failing = {loop + loop + "{% endfor %}{% endfor %}": "evaluations", "{{ 'a' * 999999999 }}": "a repeat of more than",
                   "{{ range(100001) }}": "range of more than", "{{ ''.__class__.__mro__ }}": "line 1",
                   "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "deeper than 64", "{{ 1 / 0 }}": "division by zero",
                   "{{ messages.append(1) }}": "line 1", "{{ messages[0].nope.x }}": "line 1",
                   "{{ raise_exception('no') }}": "no", loop + "{{ 'a' * 60000 }}{% endfor %}": "bytes"}
        for source, reason in unreadable.items():
            with self.subTest(source=source[:40]):
                template.write_bytes(source)
                self.refused(path, parts=["chat_template.jinja: ", reason])
        for source, reason in failing.items():
            with self.subTest(source=source):
                template.write_text(source)
                self.refused(path, parts=["2 of 2 rows cannot be used", f"{path}:1:1: ", f"{path}:2:1: ", reason])

    def test_hostile_files_cost_little(self):
        """The largest resident size and the processor time that a refusal takes."""
        MiB = 1 << 20  # each file: its head, and a piece many times
        cases = {"line.jsonl": (b'{"text": "', b"x" * MiB, 65), "line.txt": (b"", b"x" * MiB, 65),
                 "element.json": (b'[{"text": "', b"x" * MiB, 65), "field.csv": (b'text\n"', b"x" * MiB, 65),
                 "deep.jsonl": (b'{"text": ', b"[" * MiB, 8), "deep.json": (b"", b"[" * MiB, 8),
                 "commas.csv": (b"", b"," * MiB, 4), "bomb.jsonl.gz": (b"", b" " * MiB, 300),
                 "lines.jsonl": (b"", b"{\n" * 1000, 300)}
        for name, (head, piece, times) in cases.items():
            with self.subTest(name=name):
                path = self.folder / name
                with (gzip.open(path, "wb", 9) if name.endswith(".gz") else path.open("wb")) as file:
                    file.write(head)
                    for _ in range(times):
                        file.write(piece)
                with subprocess.Popen([LEMA, "data", str(self.model), str(path)], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE) as process:
                    error = process.stderr.read().decode()
                    _, status, usage = os.wait4(process.pid, 0)
                    process.returncode = os.waitstatus_to_exitcode(status)
                self.assertEqual(process.returncode, 3, error[:500])
                self.assertIn(str(path), error)
                self.assertLess(len(error), 20000)
                record = 64 * MiB if name.endswith(".gz") else 0  # a packed file may hold the longest record
                if BOUNDED:
                    self.assertLess(usage.ru_maxrss * 1024, 16 * path.stat().st_size + 64 * MiB + record)
                    self.assertLess(usage.ru_utime + usage.ru_stime, 4)
                path.unlink()

    def test_rows_are_written_with_ids_and_mask(self):
        out = self.folder / "out.jsonl"
        path = self.write([{"tokens": [1, 2, 3], "mask": [0, 0, 1]}])
        self.assertEqual(self.lema(path, flags=("--rows", str(out))).returncode, 0)
        self.assertEqual(json.loads(out.read_text()),
                         {"set": "train", "file": str(path), "line": 1, "ids": [1, 2, 3], "trained": [0, 0, 1]})

    def test_repeats_are_named(self):
        path = self.write([{"id": 1, **GOOD["text"]}, {"text": "x"}, {**GOOD["text"], "id": 2}])
        self.assertIn(f"{path}:3 repeats {path}:1", self.lema(path, flags=()).stdout)

    def test_lengths(self):
        path = self.write([{"tokens": [1, 2, 3, 4, 5]}, {"tokens": [1, 2]}, chat(USER, ANSWER)][:2])
        self.refused(path, "data.max_tokens=4", parts=["5 tokens, data.max_tokens is 4"])
        self.assertEqual(self.summary(path, "data.max_tokens=4", "data.too_long=drop")["train"]["dropped_rows"], 1)
        cut = self.summary(path, "data.max_tokens=4", "data.too_long=truncate")["train"]
        self.assertEqual((cut["truncated_rows"], cut["cut_tokens"], cut["endless_rows"], cut["longest"]), (1, 1, 1, 4))
        self.assertEqual(self.summary(path)["train"]["histogram"], [0, 1, 1])

    def test_evaluation_rows_go_by_content(self):
        rows = [{"text": f"row {i}"} for i in range(400)]
        path = self.write(rows)
        both = self.summary(path, "data.eval_fraction=0.25")
        self.assertEqual(both["train"]["rows"] + both["eval"]["rows"], 400)
        self.assertEqual(both["eval"]["rows"], 100)
        for count in range(2, 8):
            few = self.summary(self.write(rows[:count]), "data.eval_fraction=0.1")
            self.assertEqual((few["train"]["rows"], few["eval"]["rows"]), (count - 1, 1))
        # Other members, their order, repeats and the order of rows change no side.
        again = self.summary(self.write([dict(row, z=1, a=2) for row in rows]), "data.eval_fraction=0.25")
        moved = self.summary(self.write([dict(row, a=2, z=1) for row in rows[::-1]]), "data.eval_fraction=0.25")
        self.assertEqual(again["eval"]["rows"], both["eval"]["rows"])
        self.assertEqual(moved["eval"]["rows"], both["eval"]["rows"])
        twice = self.summary(self.write(rows + rows), "data.eval_fraction=0.25")
        self.assertEqual(twice["eval"]["rows"], 2 * both["eval"]["rows"])
        self.refused(self.write(rows[:1]), "data.eval_fraction=0.25", parts=["without rows"])
        self.refused(path, "data.eval_fraction=0.25", f"data.eval={path}", code=2, parts=["data.eval_fraction"])

    def test_cache_is_keyed_by_content_and_survives_damage(self):
        path, cache = self.write([{"text": "hello"}, {"text": "world"}]), self.folder / "cache"

        def dry(*settings):
            run = self.lema(path, f"output_dir={self.folder / 'run'}", f"data.cache={cache}", *settings, flags=("--dry-run",),
                            command="train")
            self.assertEqual(run.returncode, 0, run.stderr)
            return "from the cache" in run.stderr, run.stderr

        self.assertFalse(dry()[0])
        self.assertTrue(dry()[0])
        self.assertFalse(dry("data.append_eos=false")[0])
        self.assertEqual(len(list(cache.iterdir())), 2)
        path.write_text('{"text": "other"}\n')
        self.assertFalse(dry()[0])
        self.assertTrue(dry()[0])
        for file in cache.iterdir():
            whole = bytearray(file.read_bytes())
            whole[len(whole) // 2] ^= 1
            file.write_bytes(whole)
        used, log = dry()
        self.assertFalse(used)
        self.assertIn("not used", log)
        self.assertTrue(dry()[0])
        for file in cache.iterdir():
            file.write_bytes(file.read_bytes()[:7])
        self.assertFalse(dry()[0])

    def dry_run(self, path, *settings):
        run = self.lema(path, f"output_dir={self.folder / 'run'}", f"data.cache={self.folder / 'cache'}", *settings,
                        flags=("--dry-run",), command="train")
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stderr

    def test_a_cached_run_says_what_was_lost(self):
        path = self.write([{"text": "hello"}, {"text": "hello"}, {"text": "x" * 40}])
        for settings in (["data.too_long=drop"], ["data.too_long=truncate"]):
            logs = [self.dry_run(path, "data.max_tokens=12", *settings) for _ in range(2)]
            self.assertEqual(["from the cache" in log for log in logs], [False, True])
            for log in logs:
                self.assertIn('JSON lines, text by "text" of line 1', log)
                self.assertIn("1 rows repeat an earlier row", log)
                self.assertIn("1 rows dropped" if "drop" in settings[0] else "1 rows cut to data.max_tokens 12: 29 tokens", log)

    def test_a_template_with_the_date_is_not_cached(self):
        template = self.folder / "dated.jinja"
        template.write_text("{{ strftime_now('%Y') }}" + CHATML)
        path = self.write([GOOD["chat"]])
        for log in [self.dry_run(path, f"data.chat_template={template}") for _ in range(2)]:
            self.assertIn("strftime_now", log)
            self.assertNotIn("from the cache", log)
        self.assertNotIn("strftime_now", self.dry_run(path))

    def test_examples_cannot_steer_a_terminal(self):
        run = self.lema(self.write([{"text": "a\u001b[2J\u009bb"}]), flags=())
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertNotIn("\x1b", run.stdout)
        self.assertIn("\\x1b[2J\\x9bb", run.stdout)


if __name__ == "__main__":
    unittest.main()
