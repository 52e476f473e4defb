"""Malformed and hostile GGUF files: `lema convert` and `lema inspect` end with exit code 3 and one line that names the
file, within 2 seconds and 16 times the file's size plus 64 MiB, and leave nothing behind. The classes are those of the
recorded faults of GGUF readers: counts, lengths and products that wrap, offsets beyond the file, types and signs that are
not what the reader expects, and vocabularies that contradict themselves. Time and memory stay unchecked for a binary built
with sanitizers."""
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

from process_memory import BOUNDED

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = dict(zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIif?Qqd"))
BIG = [1 << 32, 1 << 60, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 33, (1 << 64) - 1]


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


def key(name, kind, value):
    """A key-value; for arrays value is (element kind, list)."""
    if kind == ARRAY:
        element, values = value
        body = struct.pack("<IQ", element, len(values)) + b"".join(scalar(element, v) for v in values)
    else:
        body = scalar(kind, value)
    return text(name) + struct.pack("<I", kind) + body


def raw_key(name, kind, body):
    return text(name) + struct.pack("<I", kind) + body


def tensor(name, dims, kind, offset, count=None):
    return (text(name) + struct.pack("<I", len(dims) if count is None else count) +
            b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset))


def file(keys=(), tensors=(), data=b"", version=3, key_count=None, tensor_count=None):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if tensor_count is None else tensor_count,
                                 len(keys) if key_count is None else key_count)
    out = head + b"".join(keys) + b"".join(tensors)
    return out + bytes(-len(out) % 32) + data if tensors else out


# A whole model of one block, C 8, two heads of 4, F 8, as lists that cases change.
KEYS = {
    "general.architecture": (STRING, "llama"), "llama.embedding_length": (U32, 8), "llama.feed_forward_length": (U32, 8),
    "llama.block_count": (U32, 1), "llama.attention.head_count": (U32, 2), "llama.context_length": (U32, 64),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.pre": (STRING, "gpt-2"), "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "ab", "</s>"])),
    "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])), "tokenizer.ggml.token_type": (ARRAY, (I32, [1, 1, 1, 3])),
    "tokenizer.ggml.eos_token_id": (U32, 3), "tokenizer.chat_template": (STRING, "{{ messages }}"),
}
SHAPES = {"token_embd.weight": [8, 4], "output_norm.weight": [8], "blk.0.attn_norm.weight": [8],
          "blk.0.ffn_norm.weight": [8], **{f"blk.0.{part}.weight": [8, 8] for part in (
              "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}}


def model(keys=(), shapes=(), kinds=(), cut=0):
    """The model with some keys and tensors changed; None leaves one out."""
    entries = [key(name, *value) for name, value in {**KEYS, **dict(keys)}.items() if value is not None]
    tensors, data = [], b""
    for name, dims in {**SHAPES, **dict(shapes)}.items():
        if dims is None:
            continue
        kind = dict(kinds).get(name, 0)
        size = 4
        for d in dims:
            size *= d
        tensors.append(tensor(name, dims, kind, len(data)))
        data += bytes(size + -size % 32)
    whole = file(entries, tensors, data)
    return whole[:len(whole) - cut] if cut else whole


def header_cases():
    good = model()
    for length in (0, 1, 4, 8, 12, 16, 20, 23):
        yield f"{length} bytes", good[:length], "too short"
    yield "git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"
    yield "web page", b"<!DOCTYPE html><html><body>404</body></html>", "not a GGUF file"
    yield "other magic", b"GGML" + good[4:], "not a GGUF file"
    for version in (0, 1, 4, 0x03000000):
        yield f"version {version}", file(version=version), "version" if version < 5 else "big-endian"
    for count in BIG + [1]:
        yield f"{count} keys", file(key_count=count), "key count"
        yield f"{count} tensors", file(tensor_count=count), "tensors"
    for length in range(100, len(good) - 4000, 211):
        yield f"cut at {length}", good[:length], ""


def key_cases():
    for kind in (13, 99, 0xFFFFFFFF):
        yield f"value type {kind}", file([raw_key("k", kind, b"")]) + bytes(64), "value type"
        yield f"array of type {kind}", file([raw_key("k", ARRAY, struct.pack("<IQ", kind, 1))]) + bytes(64), "value type"
    yield "array of arrays", file([raw_key("k", ARRAY, struct.pack("<IQ", ARRAY, 1))]) + bytes(64), "arrays of arrays"
    for count in BIG + [1000]:
        yield f"string of {count}", file([raw_key("k", STRING, struct.pack("<Q", count))]) + bytes(64), "a string value"
        yield f"key of {count}", file([struct.pack("<Q", count) + b"k"]) + bytes(64), "a key"
        for kind in (U8, U64, STRING):
            yield (f"{count} of kind {kind}", file([raw_key("k", ARRAY, struct.pack("<IQ", kind, count))]) + bytes(64),
                   "array length")
    yield "boolean 2", file([raw_key("k", BOOL, b"\x02")]) + bytes(64), "boolean 2"
    yield "boolean 7 in an array", file([raw_key("k", ARRAY, struct.pack("<IQ", BOOL, 1) + b"\x07")]) + bytes(64), "boolean"
    for name, data in [("overlong", b"\xc0\x80"), ("surrogate", b"\xed\xa0\x80"), ("lone byte", b"\xff")]:
        yield f"{name} in a value", file([raw_key("k", STRING, text(data))]) + bytes(64), "UTF-8"
        yield f"{name} in a key", file([raw_key(data, U8, b"\x01")]) + bytes(64), "UTF-8"
    yield "duplicate key", file([key("k", U8, 1), key("k", U8, 1)]) + bytes(64), "duplicate key"
    yield "u64 beyond i64", file([key("k", U64, (1 << 64) - 1)]) + bytes(64), "18446744073709551615"
    for value in (0, 3, 48, 1 << 31):
        yield f"alignment {value}", file([key("general.alignment", U32, value)]) + bytes(64), "alignment"
    yield "alignment -32", file([key("general.alignment", I32, -32)]) + bytes(64), "alignment"
    yield "alignment as text", file([key("general.alignment", STRING, "32")]) + bytes(64), "alignment"


def tensor_cases():
    def one(*tensors):
        return file((), tensors, bytes(256))
    for count in (0, 5, 1 << 16, 0xFFFFFFFF):
        yield f"{count} dimensions", one(tensor("t", [1] * min(count, 8), 0, 0, count)), "dimensions"
    for dims in ([0], [2, 0], [1 << 32, 1 << 32], [1 << 62, 4], [1 << 62], [(1 << 64) - 1], [(1 << 63) - 1, 2],
                 [1 << 31, 1 << 31, 2], [1 << 16] * 4, [1 << 40]):
        yield f"dimensions {dims}", one(tensor("t", dims, 0, 0)), "tensor t" if dims[-1] < 1 << 63 else "dimension"
    for kind in (4, 5, 31, 99, 0xFFFFFFFF):
        yield f"tensor type {kind}", one(tensor("t", [256], kind, 0)), "type"
    yield "half a block", one(tensor("t", [33], 2, 0)), "blocks of 32"
    yield "half a K block", one(tensor("t", [128], 12, 0)), "blocks of 256"
    for offset in (1, 8, 4096, 1 << 40, (1 << 63) - 32, 1 << 63, (1 << 64) - 32, (1 << 64) - 1):
        yield f"offset {offset}", one(tensor("t", [2], 0, offset)), "offset"
    yield "overlap", one(tensor("a", [16], 0, 0), tensor("b", [2], 0, 32)), "overlap"
    yield "the same place", one(tensor("a", [2], 0, 0), tensor("b", [2], 0, 0)), "overlap"
    yield "duplicate tensor", one(tensor("a", [2], 0, 0), tensor("a", [2], 0, 32)), "duplicate tensor"
    yield "name of 65", one(tensor("t" * 65, [2], 0, 0)), "tensor name"
    yield "control characters", one(tensor("\x1b[2J\n", [0], 0, 0)), "\\x1b[2J"
    for cut in (1, 31, 32, 300):
        yield f"data short of {cut}", model(cut=cut), "end beyond the file"


def model_cases():
    for name in KEYS:
        if name not in ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.token_type"):
            yield f"without {name}", model({name: None}), name
    for name, (kind, _) in KEYS.items():
        yield f"{name} of another kind", model({name: (U32, 1) if kind in (STRING, ARRAY) else (STRING, "8")}), name
    for name in ("llama.embedding_length", "llama.block_count", "llama.attention.head_count", "llama.context_length"):
        for kind, value in ((U32, 0), (I32, -1), (U64, 1 << 62), (I64, -(1 << 63)), (F32, 8.0), (ARRAY, (U32, [8]))):
            yield f"{name} {kind} {value}", model({name: (kind, value)}), name
    for name in SHAPES:
        yield f"without {name}", model(shapes={name: None}), ""
        yield f"{name} of other sizes", model(shapes={name: [16] * len(SHAPES[name])}), ""
    yield "three dimensions", model(shapes={"blk.0.attn_v.weight": [8, 2, 4]}), "attn_v"
    yield "a tensor too many", model(shapes={"blk.1.attn_q.weight": [8, 8]}), "blk.1.attn_q.weight"
    yield "RoPE factors", model(shapes={"rope_freqs.weight": [2]}), "rope_freqs.weight"
    yield "one list of longrope", model(shapes={"rope_factors_long.weight": [2]}), "rope_factors_short.weight"
    for name, value in {"general.architecture": "mamba", "tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "none",
                        "general.type": "adapter", "llama.rope.scaling.type": "mrope"}.items():
        yield f"{name} {value}", model({name: (STRING, value)}), name
    for name, value in {"split.count": 3, "llama.expert_count": 8, "llama.vocab_size": 5, "llama.rope.dimension_count": 2,
                        "tokenizer.ggml.eos_token_id": 4, "tokenizer.ggml.bos_token_id": 1 << 31}.items():
        yield f"{name} {value}", model({name: (U32, value)}), name
    yield "a negative id", model({"tokenizer.ggml.bos_token_id": (I32, -1)}), "tokenizer.ggml.bos_token_id"


def vocabulary_cases():
    def words(tokens, **keys):
        keys = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
        return model({"tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)), "tokenizer.ggml.token_type": None,
                      "tokenizer.ggml.eos_token_id": None, **keys}, {"token_embd.weight": [8, max(len(tokens), 1)]})
    yield "no tokens", words([]), "tokens"
    yield "a token twice", words(["a", "b", "ab", "a"]), "occurs twice"
    yield "tokens that are numbers", model({"tokenizer.ggml.tokens": (ARRAY, (U32, [1, 2, 3, 4]))}), "tokens"
    yield "more tokens than rows", model({"tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "ab", "c", "d"])),
                                          "tokenizer.ggml.token_type": None}), "the embedding has 4 rows"
    for merge in ("", " ", "a", "ab", "a  b", "b a", "a c", " a", "a ", "a b a"):
        yield f"merge {merge!r}", model({"tokenizer.ggml.merges": (ARRAY, (STRING, [merge]))}), "does not join"
    for types in ([1], [1] * 5):
        yield f"{len(types)} types", model({"tokenizer.ggml.token_type": (ARRAY, (I32, types))}), "entries for 4 tokens"
    yield "types as text", model({"tokenizer.ggml.token_type": (ARRAY, (STRING, ["1"] * 4))}), "token_type"
    yield "an empty special token", words(["a", "b", "ab", ""], token_type=(ARRAY, (I32, [1, 1, 1, 3]))), "is empty"
    pieces = dict(model=(STRING, "llama"), merges=None)
    for scores, part in (((F32, [0.0]), "entries for 4 tokens"), ((F32, [0.0, 0.0, 0.0, float("nan")]), "no number"),
                         ((STRING, ["0"] * 4), "no number")):
        yield f"scores {scores}", words(["a", "b", "ab", "c"], scores=(ARRAY, scores), **pieces), part
    chain = ["a" * n for n in range(1, 900)]
    yield "tokens made of each other", words(chain, scores=(ARRAY, (F32, [0.0] * len(chain))), **pieces), "ways"


def slow_cases():
    """Files that are sound and would be slow or large to a naive reader."""
    pieces = {"tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.merges": None, "tokenizer.ggml.token_type": None,
              "tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.add_bos_token": (BOOL, False)}
    for name, tokens in (("long tokens", [chr(97 + i) * 60000 for i in range(26)]),
                         ("many tokens", [f"t{i}" for i in range(40000)])):
        yield name, model({"tokenizer.ggml.tokens": (ARRAY, (STRING, tokens)),
                           "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * len(tokens))), **pieces},
                          {"token_embd.weight": [8, len(tokens)]})


class Malformed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = pathlib.Path(cls.folder.name) / "model.gguf"
        cls.out = pathlib.Path(cls.folder.name) / "out"
        cls.worst_ms, cls.worst_mib = 0.0, 0.0

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def run_lema(self, data, *arguments):
        self.path.write_bytes(data)
        began = time.monotonic()
        process = subprocess.Popen([os.environ["LEMA"], *map(str, arguments)], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        stderr = process.stderr.read()
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close(), process.stderr.close()
        cpu_ms = 1000 * (usage.ru_utime + usage.ru_stime)
        if BOUNDED:
            # Processor time: the machine may be busy with other tests.
            self.assertLess(cpu_ms, 2000, f"{time.monotonic() - began} s in all")
            self.assertLessEqual(usage.ru_maxrss * 1024, 16 * len(data) + (64 << 20))
        type(self).worst_ms = max(self.worst_ms, cpu_ms)
        type(self).worst_mib = max(self.worst_mib, usage.ru_maxrss / 1024)
        return process.returncode, stderr

    def check(self, cases):
        count = 0
        for name, data, part in cases:
            with self.subTest(name):
                code, stderr = self.run_lema(data, "convert", self.path, self.out)
                self.assertEqual(code, 3, stderr)
                lines = stderr.splitlines()
                self.assertEqual(len(lines), 1, stderr)
                self.assertIn("model.gguf", lines[0])
                self.assertIn(part, lines[0])
                self.assertFalse(self.out.exists())
                self.assertEqual(len(list(pathlib.Path(self.folder.name).iterdir())), 1)
            count += 1
        print(f"{count} files refused, worst {self.worst_ms:.0f} ms of processor time, {self.worst_mib:.0f} MiB", flush=True)

    def test_headers(self):
        self.check(header_cases())

    def test_keys(self):
        self.check(key_cases())

    def test_tensors(self):
        self.check(tensor_cases())

    def test_models(self):
        self.check(model_cases())

    def test_vocabularies(self):
        self.check(vocabulary_cases())

    def test_inspect_ends_as_convert_does(self):
        for name, data, _ in [*header_cases(), *key_cases(), *tensor_cases()][::9]:
            with self.subTest(name):
                code, stderr = self.run_lema(data, "inspect", self.path)
                self.assertEqual(code, 3, stderr)

    def test_sound_files_are_not_slow(self):
        self.addCleanup(shutil.rmtree, self.out)
        code, stderr = self.run_lema(model(), "convert", self.path, self.out / "good")
        self.assertEqual(code, 0, stderr)
        for i, (name, data) in enumerate(slow_cases()):
            with self.subTest(name):
                code, stderr = self.run_lema(data, "convert", self.path, self.out / f"{i}")
                self.assertEqual(code, 0, stderr)


if __name__ == "__main__":
    unittest.main()
