"""Encodes and decodes generated lines with `lema tokenize` and with the `tokenizers` library: ids and text are equal.

The tokenizers are trained here on generated text with a fixed seed, one per configuration in use. LEMA_LINES sets
the number of lines per configuration, LEMA_TOKENIZERS names further folders with a tokenizer.json to compare.
"""
import json
import os
import pathlib
import random
import sys
import tempfile

from tokenize_rows import LEMA, Differences, Run, in_parallel, verdict

LINES = int(os.environ.get("LEMA_LINES", "20000"))
FEW = 2000
try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, \
        trainers
except ImportError:
    print("skipped: no tokenizers library")
    sys.exit(77)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r" ?[^\s\p{L}\p{N}]", r" ?[^\s\p{L}\p{M}\p{N}]")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
ORACLE = ("\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f "
          "(multiple emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 3.3 "
          "3..3 3...3 \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\U0001f601 "
          "?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= \u043d\u0435\u0449\u043e \u043d\u0430 "
          "\u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 ''''''```````\"\"\"\"......!!!!!!?????? I've been "
          "'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL")
WORDS = """the of and a to in is you that it he was for on are as with his they at be this have from or one had by word
but not what all were we when your can said there use an each which she do how their if will up other about out many
then them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part I'm don't they're we've he'd
it'll Don'T SHE'S WE'LL naïve café façade Ünïcode œuvre straße ΑΒΓ λόγος привет мир дом שלום עולם مرحبا بالعالم नमस्ते
दुनिया สวัสดีชาวโลก こんにちは 世界 你好 안녕하세요 𠮷野家 ქართული հայերեն ትግርኛ தமிழ் Việt Nam tiếng İstanbul ﬁne ①②③ Ⅷ ½ ² x² ٣٤٥ १२३
def return import class self.__init__ std::vector<int> x+=1; foo(bar)[0] {"key": "value"} https://example.com/a?b=c&d=e
#include <stdio.h> /* comment */ // todo <div class="x"> </div> \\n \\t 3.14159 1,000,000 0x1F4A9 1e-5 2026-11-21 $100 50%
😀 😂🤣 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ ✅ → ∑ ≠ ∞ ″ … – — “quoted” ‘single’ ''' ``` --- === ... !!! ???""".split()
SPACES = [" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\u00a0", "\u3000", "\u2003", "\u200b", "\u180e", "\x85",
          "\u2028", "\x0b", "\x1c", "", ""]
MARKUP = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "[MASK]", "<mask>", "<ab>", "<abc>", "ab", "AB",
          "<|im_", "|>", "<L>", "<R>", "<LR>", "<W>", "caf\u00e9", "cafe\u0301", "\u00c5ngstrom", "A\u030angstrom"]


def line(rng):
    """One text: words of many scripts, code, markup, runs of white space, or random characters."""
    kind = rng.random()
    if kind < 0.55:
        return "".join(rng.choice(WORDS) + rng.choice(SPACES[:3] if rng.random() < 0.8 else SPACES)
                       for _ in range(rng.randint(1, 15)))
    if kind < 0.70:
        return "".join(rng.choice(rng.choice([WORDS, SPACES, MARKUP, MARKUP])) for _ in range(rng.randint(1, 12)))
    if kind < 0.78:
        return "".join(rng.choice(SPACES) * rng.randint(1, 30) for _ in range(rng.randint(1, 3))) + rng.choice(WORDS)
    if kind < 0.86:
        return "".join(chr(rng.randint(0, 0x2FF)) for _ in range(rng.randint(0, 60)))
    if kind < 0.93:
        return "".join(chr(c) for c in (rng.choice([rng.randint(0, 0xD7FF), rng.randint(0xE000, 0x10FFFF),
                                                    rng.randint(0x300, 0x36F)]) for _ in range(rng.randint(0, 40))))
    if kind < 0.97:
        return rng.randbytes(rng.randint(0, 60)).decode("utf-8", "replace")
    return rng.choice(WORDS) * rng.choice([2, 5, 9, 20, 60, 200])


def trained(rng, normalizer=None, pre=None, post=None, decoder=None, size=1200, char_level=False, **model):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if char_level else None, fuse_unk=char_level))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    alphabet = [] if char_level else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False,
                                  special_tokens=["<unk>"] if char_level else [], limit_alphabet=300)
    tokenizer.train_from_iterator([line(rng) for _ in range(600)], trainer)
    if post:
        tokenizer.post_processor = post(tokenizer)
    tokenizer.decoder = decoder or decoders.ByteLevel()
    document = json.loads(tokenizer.to_str())
    document["model"].update(model)
    return Tokenizer.from_str(json.dumps(document))


def with_added(tokenizer):
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer.add_tokens([
        AddedToken("<ab>", normalized=False), AddedToken("<abc>", normalized=False), AddedToken("<L>", lstrip=True),
        AddedToken("<R>", rstrip=True), AddedToken("<LR>", lstrip=True, rstrip=True, normalized=False),
        AddedToken("<W>", single_word=True), AddedToken("ab", single_word=True, normalized=False),
        AddedToken("caf\u00e9", normalized=True), AddedToken("\u00c5ngstrom", normalized=True, special=True),
        AddedToken("<mask>", lstrip=True, special=True), AddedToken("\u4f60", normalized=False),
        AddedToken("two words", normalized=False)])
    return tokenizer


def bos(tokenizer):
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ids = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    return processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)])


def split(pattern, behavior="isolated", invert=False):
    regex = Regex(pattern) if isinstance(pattern, str) else pattern[0]
    return pre_tokenizers.Sequence([pre_tokenizers.Split(regex, behavior, invert),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def configurations(rng):
    byte_level = pre_tokenizers.ByteLevel
    yield "gpt2", trained(rng, pre=byte_level(add_prefix_space=False))
    yield "gpt2_prefix_space", with_added(trained(rng, pre=byte_level(add_prefix_space=True)))
    yield "smollm", with_added(trained(rng, pre=pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=False)])))
    yield "digit_runs", trained(rng, pre=pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=False), byte_level(add_prefix_space=True)]))
    yield "llama3", trained(rng, pre=split(LLAMA3), post=bos, ignore_merges=True)
    yield "qwen2", with_added(trained(rng, normalizer=normalizers.NFC(), pre=split(QWEN2)))
    yield "qwen35", trained(rng, normalizer=normalizers.NFC(), pre=split(QWEN35))
    yield "tekken", trained(rng, pre=split(TEKKEN), post=bos)
    yield "words", trained(rng, pre=split(r"\w+|[^\w\s]+", invert=True, behavior="removed"))
    for behavior in ("removed", "merged_with_previous", "merged_with_next", "contiguous"):
        yield behavior, trained(rng, pre=split(r"\s|[a-e]", behavior))
        yield behavior + "_inverted", trained(rng, pre=split(["e"], behavior, True))
    for form in ("NFD", "NFKC", "NFKD"):
        yield form, with_added(trained(rng, normalizer=getattr(normalizers, form)(), pre=byte_level(False)))
    yield "lowercase_strip", with_added(trained(rng, pre=byte_level(False), normalizer=normalizers.Sequence([
        normalizers.Strip(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s{2,}"), " ")])))
    yield "characters", trained(rng, char_level=True, size=900, pre=pre_tokenizers.Split(" ", "merged_with_next"),
                                normalizer=normalizers.Sequence([normalizers.Prepend("\u2581"),
                                                                 normalizers.Replace(" ", "\u2581")]),
                                decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                                           decoders.Fuse(), decoders.Strip(" ", 1, 0)]))

    yield from sentencepiece_style(rng)
    yield "falcon", trained(rng, pre=pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), byte_level(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))
    for name, pre in (("whitespace", pre_tokenizers.Whitespace()), ("whitespace_split", pre_tokenizers.WhitespaceSplit()),
                      ("delimiter", pre_tokenizers.CharDelimiterSplit("e"))):
        yield name, trained(rng, pre=pre_tokenizers.Sequence([pre, byte_level(add_prefix_space=False)]))


def sentencepiece_style(rng):
    """Characters with byte fallback behind a metaspace: merges run over whole texts."""
    decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                 decoders.Strip(" ", 1, 0)])
    legacy = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    yield "legacy", with_bytes(trained(rng, normalizer=legacy, decoder=decoder, char_level=True))
    for scheme in ("first", "always", "never"):
        for cut in (False, True):
            metaspace = pre_tokenizers.Metaspace("\u2581", scheme, cut)
            ours = decoder if cut else decoders.Metaspace("\u2581", scheme, cut)
            tokenizer = trained(rng, pre=metaspace, decoder=ours, char_level=True, ignore_merges=cut)
            yield f"metaspace_{scheme}_{cut}", with_added(with_bytes(tokenizer))


def with_bytes(tokenizer):
    document = json.loads(tokenizer.to_str())
    vocab = document["model"]["vocab"]
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    document["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(document))


def compare(case):
    name, folder, tokenizer, lines = case
    found, rng = Differences(name), random.Random(name)
    framed, bare = Run(folder, lines), Run(folder, lines[:FEW], "--no-special")
    expected = [e.ids for e in tokenizer.encode_batch_fast(lines)]
    rows = expected[:LINES // 2]
    size = tokenizer.get_vocab_size()
    rows += [rng.choices(range(size + 3), k=rng.randint(0, 30)) for _ in range(LINES - LINES // 2)]
    decoding = Run(folder, rows, "--decode", "--skip-special")
    plain = [e.ids for e in tokenizer.encode_batch(lines[:FEW], add_special_tokens=False)]
    texts = tokenizer.decode_batch(rows, skip_special_tokens=True)
    found.look("encode", lines, framed.rows(), expected)
    found.look("encode without special tokens", lines[:FEW], bare.rows(), plain)
    found.look("decode", rows, decoding.rows(), texts)
    return found


def main():
    if not LEMA or not os.access(LEMA, os.X_OK):
        print("skipped: LEMA names no binary")
        return 77
    rng = random.Random(20261121)
    lower = normalizers.Lowercase().normalize_str
    capitals = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and lower(chr(c)) != chr(c)]
    lines = ["", " ", ORACLE, "".join(capitals)] + [line(rng) for _ in range(LINES)]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name, tokenizer in configurations(rng):
            path = pathlib.Path(folder) / name
            path.mkdir()
            tokenizer.save(str(path / "tokenizer.json"))
            cases.append((name, path, tokenizer, lines))
        for path in filter(None, os.environ.get("LEMA_TOKENIZERS", "").split(":")):
            cases.append((path, path, Tokenizer.from_file(path + "/tokenizer.json"), lines))
        return verdict(in_parallel(compare, cases), LINES)


if __name__ == "__main__":
    sys.exit(main())
