"""Label masks against transformers, live: `lema tokenize --chat` must give the text, the ids and the mask that follow from
apply_chat_template (jinja2) and the `tokenizers` library by prefix difference, or by {% generation %} blocks where the
template has them, and must refuse a conversation exactly where no such mask exists. The tokenizer is trained here. The
published training templates of an installed `trl` are read, never copied, and their blocks compared with transformers'.
Environment: LEMA (binary), LEMA_SOURCE (checkout). Exits 77 (skipped) without the libraries."""
import collections
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    import jinja2
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils.chat_template_utils import render_jinja_template
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)
if not importlib.util.find_spec("trl"):
    print("skipped: trl is not installed")
    sys.exit(77)

SEED = 20240601
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<|head|>", "<|/head|>"]

CHATML = """{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

HEADERS = """{{- bos_token -}}
{%- for message in messages -%}
{{ '<|head|>' + message.role + '<|/head|>\\n' + message.content | trim + '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|head|>assistant<|/head|>\\n' }}{%- endif -%}"""

INSTRUCTIONS = """{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{%- set ns.system = message.content + '\\n' -%}
  {%- elif message.role == 'user' -%}
    {{ '[INST] ' + (ns.system if loop.index0 <= 1 else '') + message.content + ' [/INST]' }}
  {%- elif message.role == 'assistant' -%}{{ ' ' + message.content + eos_token }}
  {%- else -%}{{ raise_exception('roles are system, user and assistant') }}{%- endif -%}
{%- endfor -%}"""

TOOLS = """{%- if tools -%}
{{ '<|im_start|>system\\n' }}{%- for tool in tools -%}{{ tool | tojson + '\\n' }}{%- endfor -%}{{ '<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content -%}{{ message.content }}{%- endif -%}
{%- for call in message.tool_calls or [] -%}{{ '\\n' + call.function | tojson }}{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

TAGGED = """{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{ message.content + '<|im_end|>' }}{%- endgeneration -%}
{%- else -%}{{ message.content + '<|im_end|>' }}{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

# Shows the reasoning of the last answer only: earlier turns change once others follow.
FORGETFUL = """{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' and loop.last -%}{{ '<r>thoughts</r>' }}{%- endif -%}
{{ message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

# No special token around the turns, and a prompt that ends in a blank: answers merge with it into other tokens.
PLAIN = """{%- for message in messages -%}
{{ message.role + ': ' + message.content + eos_token + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "instructions": INSTRUCTIONS, "tools": TOOLS, "tagged": TAGGED,
             "forgetful": FORGETFUL, "plain": PLAIN}

WORDS = """the river runs past a mill and an old bridge 1984 12.5 I'm can't \u00fcber stra\u00dfe na\u00efve \u043c\u043e\u0441\u0442
\u0440\u0435\u043a\u0430 \u6cb3 \u6865 \u6c34\u8f66 \u0645\u0631\u062d\u0628\u0627 \U0001f680 \U0001f469\u200d\U0001f4bb e\u0301 \u00a0x
<|im_end|> </s> {"a":[1]} assistant: user <|im_start|>assistant""".split(" ")


def trained_tokenizer(split_digits):
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.Digits(individual_digits=True)] if split_digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["\n\n ".join(WORDS) + " system user assistant helpful.\n\n"] * 3, trainer)
    return tokenizer


def text_of(rng):
    words = [rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 5, 12]))]
    text = "".join(word + rng.choice([" ", " ", "\n", "  ", ", "]) for word in words)
    text = text if rng.random() < 0.5 else text.strip()
    return rng.choice(["", "", "", "", " ", "\n"]) + text if rng.random() < 0.3 else text


def conversation(rng, name):
    messages = [{"role": "system", "content": text_of(rng)}] if rng.random() < 0.4 else []
    for _ in range(rng.choice([1, 1, 2, 3, 5])):
        messages.append({"role": "user", "content": text_of(rng)})
        if name == "tools" and rng.random() < 0.4:
            call = {"type": "function", "function": {"name": "f", "arguments": {"x": text_of(rng)}}}
            messages.append({"role": "assistant", "content": rng.choice([None, "calling"]), "tool_calls": [call]})
            messages.append({"role": "tool", "content": text_of(rng)})
        messages.append({"role": "assistant", "content": text_of(rng)})
    if rng.random() < 0.15:
        messages.append({"role": "user", "content": text_of(rng)})
    if rng.random() < 0.1:
        messages.append(dict(messages[-1]))
    row = {"messages": messages}
    if name == "tools" and rng.random() < 0.5:
        row["tools"] = [{"type": "function", "function": {"name": "f", "description": "\u00fc<&>", "parameters": {}}}]
    if rng.random() < 0.2:
        row["add_generation_prompt"] = True
    return row


class Refused(Exception):
    pass


def render(tokenizer, messages, tools, add_generation_prompt):
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False,
                                             add_generation_prompt=add_generation_prompt)
    except jinja2.TemplateError as e:
        raise Refused(str(e)) from e


def expected(tokenizer, row, name):
    """{"text", "ids", "trained"} by the definition; Refused where the definition gives none."""
    tools, messages = row.get("tools"), row["messages"]

    def encode(text):
        return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)

    text = render(tokenizer, messages, tools, row.get("add_generation_prompt", False))
    whole = encode(text)
    starts = [begin for begin, _ in whole["offset_mapping"]]
    if name == "tagged":
        got = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True,
                                            add_generation_prompt=row.get("add_generation_prompt", False))
        assert got["input_ids"] == whole["input_ids"]
        for prompt in [render(tokenizer, messages[:i], tools, True) for i, m in enumerate(messages) if m["role"] == "assistant"]:
            alone = encode(prompt)["input_ids"]
            if len(prompt) not in [*starts, len(text)] or alone != whole["input_ids"][:len(alone)]:
                raise Refused("a block begins inside a token, or its prompt has other tokens")
        return {"text": text, "ids": whole["input_ids"], "trained": got["assistant_masks"]}
    trained = [0] * len(starts)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, full = render(tokenizer, messages[:i], tools, True), render(tokenizer, messages[:i + 1], tools, False)
        if not full.startswith(prompt) or not text.startswith(full):
            raise Refused("no prefix")
        alone = encode(prompt)["input_ids"]
        if alone != whole["input_ids"][:len(alone)] or len(prompt) not in [*starts, len(text)]:
            raise Refused("other tokens")
        trained = [1 if len(prompt) <= start < len(full) else old for start, old in zip(starts, trained)]
    return {"text": text, "ids": whole["input_ids"], "trained": trained}


def lema(folder, rows):
    """The answers of one call; (done, error) where done is shorter than rows after a refusal."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    run = subprocess.run([os.environ["LEMA"], "tokenize", "--model", str(folder), "--chat"], input=lines,
                         capture_output=True, text=True, encoding="utf-8", timeout=120)
    if run.returncode not in (0, 3):
        sys.exit(f"lema tokenize: exit {run.returncode}: {run.stderr}")
    return [json.loads(line) for line in run.stdout.split("\n")[:-1]], run.stderr


def folder_of(root, tokenizer, template):
    root.mkdir()
    tokenizer.save(str(root / "tokenizer.json"))
    (root / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}))
    (root / "chat_template.jinja").write_text(template)
    return PreTrainedTokenizerFast.from_pretrained(root)


def published_templates():
    folder = pathlib.Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
    return {path.name: path.read_text() for path in sorted(folder.glob("*_training.jinja"))}


def plain_conversation(rng):
    """Turns that every published template writes: user and assistant by turns, no edges of white space."""
    messages = []
    for _ in range(rng.choice([1, 2, 3])):
        messages.append({"role": "user", "content": text_of(rng).strip() or "hi"})
        messages.append({"role": "assistant", "content": text_of(rng).strip() or "yes"})
    return {"messages": messages}


def rendered_blocks(messages, template, add_generation_prompt=False):
    """The text and transformers' own spans of its {% generation %} blocks, in characters."""
    try:
        texts, spans = render_jinja_template(conversations=[messages], chat_template=template, tools=None,
                                             documents=None, return_assistant_tokens_mask=True,
                                             add_generation_prompt=add_generation_prompt, bos_token="<s>",
                                             eos_token="</s>")
    except (jinja2.TemplateError, TypeError, KeyError) as e:
        raise Refused(str(e)) from e
    return texts[0], spans[0]


def check_prompts(tokenizer, messages, template, text, whole, starts, blocks):
    """Refused where a prompt has other text or tokens than the conversation has up to the answer's block."""
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, _ = rendered_blocks(messages[:i], template, True)
        common = len(os.path.commonprefix([prompt, text]))

        def keeps_tokens(length):
            alone = tokenizer(prompt[:length], add_special_tokens=False)["input_ids"]
            return alone == whole[:len(alone)] and length in [*starts, len(text)]

        if common == len(prompt) and keeps_tokens(common):
            continue
        fixed = min([len(prompt), *(begin for begin, end in blocks if end > common)])
        if common < len(prompt):
            history, _ = rendered_blocks(messages[:i], template)
            if not prompt.startswith(history) or not len(history) <= fixed <= common:
                raise Refused("the template does not continue its prompt")
        if not keeps_tokens(fixed):
            raise Refused("the prompt has other tokens")


def expected_blocks(tokenizer, row, template):
    """As expected(), by transformers' own spans of the {% generation %} blocks."""
    text, blocks = rendered_blocks(row["messages"], template)
    if any(message["content"].strip() not in text for message in row["messages"]):
        raise Refused("the template leaves a message out")
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [begin for begin, _ in whole["offset_mapping"]]
    blocks = [(begin, end) for begin, end in blocks if begin < end]
    if any(begin not in starts for begin, _ in blocks):
        raise Refused("a block begins inside a token")
    check_prompts(tokenizer, row["messages"], template, text, whole["input_ids"], starts, blocks)
    trained = [int(any(begin <= start < end for begin, end in blocks)) for start in starts]
    return {"text": text, "ids": whole["input_ids"], "trained": trained}


def compare_published(base, trained):
    """Masks of trl's training templates; returns the number of differences."""
    templates, rows, wrong = 0, 0, 0
    for name, template in published_templates().items():
        rng = random.Random(f"{SEED} {name}")
        folder = pathlib.Path(base) / name
        tokenizer = folder_of(folder, trained, template)
        fine = []
        for row in [plain_conversation(rng) for _ in range(12)]:
            try:
                fine.append((row, expected_blocks(tokenizer, row, template)))
            except Refused:
                if lema(folder, [row])[0]:
                    wrong += 1
                    print(f"{name}: accepted what the reference refuses: {json.dumps(row)}")
        answers, error = lema(folder, [row for row, _ in fine])
        if len(answers) != len(fine):
            wrong += 1
            print(f"{name}: refused {json.dumps(fine[len(answers)][0])}\n  {error}")
        for (row, want), got in zip(fine, answers):
            if got != want:
                wrong += 1
                print(f"{name}: differs for {json.dumps(row)}\n  want {want}\n  got  {got}")
        templates += bool(answers)
        rows += len(answers)
    print(f"published training templates: {templates}, {rows} conversations")
    if templates < 20:
        sys.exit(f"only {templates} published templates were compared")
    return wrong


def main():
    counts, wrong = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as base:
        for split_digits in (False, True):
            trained = trained_tokenizer(split_digits)
            for name, template in TEMPLATES.items():
                rng = random.Random(f"{SEED} {name} {split_digits}")
                folder = pathlib.Path(base) / f"{name}{split_digits}"
                tokenizer = folder_of(folder, trained, template)
                fine = []
                for row in [conversation(rng, name) for _ in range(60)]:
                    try:
                        fine.append((row, expected(tokenizer, row, name)))
                    except Refused as e:
                        counts[name, "refused"] += 1
                        done, error = lema(folder, [row])
                        if done:
                            wrong += 1
                            print(f"{name}: accepted what the reference refuses ({e}): {json.dumps(row)}")
                answers, error = lema(folder, [row for row, _ in fine])
                counts[name, "equal"] += len(answers)
                counts[name, "trained tokens"] += sum(sum(want["trained"]) for _, want in fine)
                if len(answers) != len(fine):
                    wrong += 1
                    print(f"{name}: refused {json.dumps(fine[len(answers)][0])}\n  {error}")
                for (row, want), got in zip(fine, answers):
                    if got != want:
                        wrong += 1
                        print(f"{name}: differs for {json.dumps(row)}\n  want {want}\n  got  {got}")
        wrong += compare_published(base, trained)
    for key, count in sorted(counts.items()):
        print(*key, count)
    # The case must bite: every kind of refusal and of acceptance occurs.
    for name in ("chatml", "headers", "instructions", "tools", "tagged"):
        if counts[name, "equal"] < 40:
            sys.exit(f"{name}: only {counts[name, 'equal']} conversations were compared")
    for name in ("forgetful", "plain"):
        if counts[name, "refused"] < 10:
            sys.exit(f"{name}: only {counts[name, 'refused']} refusals")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
