"""Every data shape under every mask rule, against an oracle of its own: `lema data --rows` must give, for random rows of
each shape, the ids and the mask that follow from apply_chat_template (jinja2) and the `tokenizers` library, and must refuse
the same rows. Rules: train_on, append_eos, weights, too_long, {% generation %} blocks. Environment: LEMA (binary),
LEMA_SOURCE (checkout). Exits 77 (skipped) without the libraries."""
import collections
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import tiny_folder
from mask_test import HEADERS, SEED, TAGGED, TOOLS, Refused, folder_of, render, rendered_blocks, text_of, trained_tokenizer

ROWS = 40  # of each shape
STOPS = ("</s>", "<|im_end|>")
MAX_TOKENS = 40  # of the runs with too_long
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant",
            "observation": "tool", "function_response": "tool", "function": "tool", "system": "system"}


def words(rng):
    return text_of(rng).strip() or "yes"


def tool(rng):
    return {"type": "function", "function": {"name": "f", "description": words(rng), "parameters": {}}}


def add_tools(row, rng, with_tools):
    """Gives the row tools at times; what templates then see of them."""
    if not with_tools or rng.random() < 0.5:
        return None
    tools = [tool(rng)]
    row["tools"] = rng.choice([tools, json.dumps(tools)])
    return tools


# --- rows: shape -> (row as it stands in the file, messages, tools, which messages are untrained) ---

def chat(rng, with_tools):
    messages, wanted = [], []

    def add(message, weight=None, written=None):
        messages.append(message)
        wanted.append(({**(written or message), **({} if weight is None else {"weight": weight})}, weight == 0))

    if rng.random() < 0.4:
        add({"role": "system", "content": words(rng)})
    for _ in range(rng.choice([1, 1, 2, 3])):
        add({"role": "user", "content": words(rng)})
        if with_tools and rng.random() < 0.4:
            arguments = {"x": words(rng), "n": [1, None]}
            calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
            message = {"role": "assistant", "content": rng.choice([None, "calling"]), "tool_calls": calls}
            as_text = [{"type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}]
            add(message, written={**message, "tool_calls": rng.choice([calls, as_text])})
            add({"role": "tool", "content": words(rng)})
        add({"role": "assistant", "content": words(rng)}, rng.choice([None, None, 0, 1]))
    if rng.random() < 0.2:
        add({"role": "user", "content": words(rng)})
    row = {"messages": [written for written, _ in wanted]}
    if messages[0]["role"] == "system" and rng.random() < 0.5:
        row["system"] = messages[0]["content"]
        del row["messages"][:rng.choice([0, 1])]
    return row, messages, add_tools(row, rng, with_tools), [untrained for _, untrained in wanted]


def alpaca(rng, with_tools):
    row = {"instruction": words(rng), "output": words(rng)}
    messages = []
    if rng.random() < 0.5:
        row["system"] = rng.choice(["", words(rng)])
        messages += [{"role": "system", "content": row["system"]}] if row["system"] else []
    if rng.random() < 0.5:
        row["history"] = [[words(rng), words(rng)] for _ in range(rng.choice([0, 1, 2]))]
        for asked, answered in row["history"]:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    if rng.random() < 0.5:
        row["input"] = rng.choice(["", words(rng)])
    extra = "\n\n" + row["input"] if row.get("input") else ""
    messages += [{"role": "user", "content": row["instruction"] + extra}, {"role": "assistant", "content": row["output"]}]
    return row, messages, add_tools(row, rng, with_tools), [False] * len(messages)


def sharegpt(rng, with_tools):
    """Turns {"from", "value"}, or {"role", "content"} with OpenAI's members, its older names included."""
    turns, messages = [], []
    as_chat = rng.random() < 0.3

    def add(speaker, text):
        if as_chat:
            turns.append({"role": speaker, "content": text})
        else:
            turns.append({"from": speaker, "value": text})
        messages.append({"role": SPEAKERS[speaker], "content": text})

    row = {"conversations": turns}
    if rng.random() < 0.3:
        row["system"] = words(rng)
        messages.append({"role": "system", "content": row["system"]})
        if rng.random() < 0.5:
            turns.append({"from": "system", "value": row["system"]})
    for _ in range(rng.choice([1, 2, 3])):
        add(rng.choice(["human", "user"]), words(rng))
        if with_tools and rng.random() < 0.4:
            function = {"name": "f", "arguments": {"x": words(rng)}}
            calls = {"tool_calls": [{"type": "function", "function": function}]}
            if not as_chat:
                turns.append({"from": "function_call", "value": json.dumps(function)})
                messages.append({"role": "assistant", "content": "", **calls})
            else:
                older = {"function_call": {"name": "f", "arguments": json.dumps(function["arguments"])}}
                turns.append({"role": "assistant", "content": None, **rng.choice([calls, older])})
                messages.append({"role": "assistant", "content": None, **calls})
            add(rng.choice(["observation", "function_response", "function"]), words(rng))
        add(rng.choice(["gpt", "chatgpt", "bard"]), words(rng))
    return row, messages, add_tools(row, rng, with_tools), [False] * len(messages)


def completion_messages(rng, with_tools):
    _, messages, _, _ = chat(rng, with_tools)
    cut = rng.randrange(len(messages))
    row = {"prompt": messages[:cut], "completion": messages[cut:]}
    return row, messages, add_tools(row, rng, with_tools), [i < cut for i in range(len(messages))]


DIALOGUES = {"chat": chat, "alpaca": alpaca, "sharegpt": sharegpt, "completion_messages": completion_messages}


def plain_rows(rng, shape, V):
    if shape == "text":
        return {"text": text_of(rng)}
    if shape == "completion":
        return {"prompt": text_of(rng), "completion": text_of(rng)}
    ids = [rng.randrange(V) for _ in range(rng.choice([1, 2, 5, 30, 60]))]
    kept = [rng.randrange(2) for _ in ids]
    more = rng.choice([{}, {"mask": kept}, {"labels": [i if k else -100 for i, k in zip(ids, kept)]}])
    return {rng.choice(["tokens", "input_ids"]): ids, **more}


# --- the oracle ---

class Oracle:
    def __init__(self, tokenizer, tagged, rules):
        self.tokenizer, self.tagged, self.rules = tokenizer, tagged, rules
        self.eos = tokenizer.convert_tokens_to_ids("</s>")
        self.stops = set(tokenizer.convert_tokens_to_ids(list(STOPS)))

    def encode(self, text, special):
        got = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return got["input_ids"], [begin for begin, _ in got["offset_mapping"]]

    def with_eos(self, ids, trained):
        if self.rules.get("append_eos", True) and ids[-1:] != [self.eos]:
            return ids + [self.eos], trained + [1]
        return ids, trained

    def plain(self, shape, row):
        if shape == "text":
            ids, _ = self.encode(row["text"], True)
            return self.with_eos(ids, [1] * len(ids))
        if shape == "completion":
            at = len(row["prompt"])
            ids, starts = self.encode(row["prompt"] + row["completion"], True)
            alone, alone_starts = self.encode(row["prompt"], True)
            before = [i for i, start in zip(ids, starts) if start < at]
            if not row["completion"]:
                raise Refused("empty")
            every = self.rules["train_on"] == "all"
            if not every and (before != [i for i, start in zip(alone, alone_starts) if start < at] or
                              at not in [*starts, at + len(row["completion"])]):
                raise Refused("other tokens")
            return self.with_eos(ids, [int(every or start >= at) for start in starts])
        ids = row.get("tokens") or row["input_ids"]
        labels = [int(label != -100) for label in row.get("labels", [])]
        return ids, row.get("mask") or labels or [1] * len(ids)

    def dialogue(self, messages, tools, untrained):
        train_on = self.rules["train_on"]
        text = render(self.tokenizer, messages, tools, False)
        ids, starts = self.encode(text, False)
        cut = self.rules.get("too_long") == "truncate" and len(ids) > MAX_TOKENS
        self.text, self.starts, self.limit = text, starts, starts[MAX_TOKENS] if cut else len(text) + 1
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if train_on == "all":
            fulls = [(i, render(self.tokenizer, messages[:i + 1], tools, False)) for i in answers]
            self.ends = [len(full) if text.startswith(full) else len(text) for i, full in fulls
                         if text.startswith(full) or i + 1 == len(messages)]
            return ids, [1] * len(ids)
        wanted = [i for i in answers if not untrained[i] and (train_on != "last" or i == answers[-1])]
        if self.rules.get("too_long") == "drop" and len(ids) > MAX_TOKENS:
            return ids, [0] * len(ids)
        turns = {}
        for i in wanted:
            prompt = render(self.tokenizer, messages[:i], tools, True)
            if len(prompt) >= self.limit:
                break
            turns[i] = self.turn(messages, tools, i, prompt, ids)
        if self.tagged:
            spans = [rendered_blocks(messages, TAGGED)[1][answers.index(i)] for i in wanted]
            if any(begin not in starts for begin, end in spans if begin < end):
                raise Refused("a block begins inside a token")
        else:
            spans = [turns[i] for i in wanted if i in turns]
            if any(i not in turns for i in wanted):
                spans.append((self.limit, len(text)))
        self.ends = [end for _, end in spans]
        return ids, [int(any(begin <= start < end for begin, end in spans)) for start in starts]

    def turn(self, messages, tools, i, prompt, ids):
        full = self.text if self.tagged else render(self.tokenizer, messages[:i + 1], tools, False)
        if not full.startswith(prompt) or not self.text.startswith(full):
            raise Refused("no prefix")
        alone, _ = self.encode(prompt, False)
        if alone != ids[:len(alone)] or len(prompt) not in [*self.starts, len(self.text)]:
            raise Refused("other tokens")
        return len(prompt), len(full)

    def stop_ends(self, ids, trained, end):
        """Whether the last token before `end` that is no white space is a trained stop token."""
        at = sum(start < end for start in self.starts) - 1
        while at > 0 and not self.text[self.starts[at]:end].strip(" \t\r\n"):
            at -= 1
        return 0 < at < len(ids) and trained[at] and ids[at] in self.stops

    def fitted(self, ids, trained, is_dialogue):
        """None where the row is dropped."""
        if self.rules.get("too_long") == "drop" and len(ids) > MAX_TOKENS:
            return None
        if self.rules.get("too_long") == "truncate":
            ids, trained = ids[:MAX_TOKENS], trained[:MAX_TOKENS]
        trained = [0] + trained[1:] if trained else []
        if not any(trained):
            raise Refused("nothing is trained")
        if is_dialogue and not any(self.stop_ends(ids, trained, end) for end in self.ends):
            raise Refused("no stop token is trained")
        return {"ids": ids, "trained": trained}


def rules_of():
    for train_on in ("completions", "last", "all"):
        yield {"train_on": train_on}
    yield {"train_on": "completions", "append_eos": False}
    yield {"train_on": "completions", "too_long": "drop"}
    yield {"train_on": "completions", "too_long": "truncate"}


def lema(folder, files, rules):
    """{(file, line): {"ids", "trained"}} of the rows that are taken."""
    settings = {**{"data." + key: value for key, value in rules.items()}, "data.train": [str(file) for file in files],
                "data.bad_rows": "skip", "data.max_bad_rows": 10 ** 6, "data.max_tokens": 10 ** 6, "output_dir": "unused"}
    if "too_long" in rules:
        settings["data.max_tokens"] = MAX_TOKENS
    out = folder / "rows.jsonl"
    run = subprocess.run([os.environ["LEMA"], "data", str(folder), *itertools.chain.from_iterable(
        ("--set", f"{key}={json.dumps(value)}") for key, value in settings.items()), "--rows", str(out), "--json"],
        capture_output=True, text=True, encoding="utf-8", timeout=120)
    if run.returncode != 0:
        sys.exit(f"lema data: exit {run.returncode}: {run.stderr}")
    return {(row["file"], row["line"]): {"ids": row["ids"], "trained": row["trained"]}
            for row in map(json.loads, out.read_text().split("\n")[:-1])}


def compare(folder, tokenizer, name, rules, rng, counts):
    """Returns the number of differences."""
    oracle = Oracle(tokenizer, name == "tagged", rules)
    cases, files = {}, []
    shapes = [*DIALOGUES] + (["tokens"] if "append_eos" not in rules else []) + ["text", "completion"]
    if "append_eos" in rules:
        shapes = ["text", "completion"]
    for shape in shapes:
        file, lines = folder / f"{shape}.jsonl", []
        for line in range(1, ROWS + 1):
            is_dialogue = shape in DIALOGUES
            try:
                if is_dialogue:
                    row, messages, tools, untrained = DIALOGUES[shape](rng, name == "tools")
                    got = oracle.dialogue(messages, tools, untrained)
                else:
                    row = plain_rows(rng, shape, len(tokenizer))
                    got = oracle.plain(shape, row)
                cases[str(file), line] = shape, row, oracle.fitted(*got, is_dialogue)
            except Refused as reason:
                cases[str(file), line] = shape, row, str(reason)
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        file.write_text("".join(lines))
        files.append(file)
    taken, wrong = lema(folder, files, rules), 0
    for place, (shape, row, want) in cases.items():
        got = taken.get(place)
        kind = "equal" if isinstance(want, dict) else "dropped" if want is None else "refused"
        counts[shape, kind] += 1
        if got != (want if isinstance(want, dict) else None):
            wrong += 1
            if wrong <= 5:
                print(f"{name} {rules} {place}: differs for {json.dumps(row)}\n  want {want}\n  got  {got}")
    return wrong


def with_bos(tokenizer):
    from tokenizers import processors
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def main():
    counts, wrong = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as base:
        for bos in (False, True):
            trained = with_bos(trained_tokenizer(False)) if bos else trained_tokenizer(True)
            for name, template in (("headers", HEADERS), ("tools", TOOLS), ("tagged", TAGGED)):
                folder = pathlib.Path(base) / f"{name}{bos}"
                tokenizer = folder_of(folder, trained, template)
                tiny_folder.write_llama(folder, len(tokenizer))
                rng = random.Random(f"{SEED} {name} {bos}")
                wrong += sum(compare(folder, tokenizer, name, rules, rng, counts) for rules in rules_of())
    for key, count in sorted(counts.items()):
        print(*key, count)
    print(f"{sum(counts.values())} rows, {wrong} differ")
    # The case must bite: each shape is taken, and each can be refused.
    for shape in (*DIALOGUES, "text", "completion", "tokens"):
        if counts[shape, "equal"] < 200 or counts[shape, "refused"] < 10:
            sys.exit(f"{shape}: too few rows were compared")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
