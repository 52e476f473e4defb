"""Writes GGUF files with the `gguf` package, converts them with `lema convert --dtype f32` and compares, bit for bit:
every tensor with the package's dequantisation and with transformers' own loading of the file (names, q/k row order,
tied head), RoPE settings with the converter's factors, and the rebuilt tokenizer with transformers' GGUF tokenizer.

LEMA_GGUF names further GGUF files to compare the same way; those with the published SmolLM vocabulary must also give
the public hash of the oracle string. LEMA_LINES sets the lines per tokenizer.
"""
import hashlib
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
LEMA = os.environ.get("LEMA", "")
if not LEMA:
    print("skipped: LEMA names no binary")
    sys.exit(77)

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LINES = int(os.environ.get("LEMA_LINES", "400"))
C, F, H, HKV, D, L = 64, 96, 4, 2, 16, 2
EOS, TOOL = "<|im_end|>", "<tool_call>"
Q = gguf.GGMLQuantizationType
TYPES = [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K]
# The bytes of a block that are f16 scales, which must be finite for a value to have one bit pattern.
HALF_SCALES = {Q.Q8_0: [0], Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q2_K: [80, 82],
               Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}
# llama.cpp's converter hashes the ids of this text to recognise a pre-tokenizer.
ORACLE = ("\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f "
          "(multiple emojis concatenated) \u2705 \U0001f999\U0001f999 3 33 333 3333 33333 333333 3333333 33333333 3.3 "
          "3..3 3...3 \u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785\U0001f601 "
          "?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= \u043d\u0435\u0449\u043e \u043d\u0430 "
          "\u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 ''''''```````\"\"\"\"......!!!!!!?????? I've been "
          "'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL")
SMOLLM_HASH = "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249"
WORDS = """the quick brown fox I'm don't WE'LL it'd naïve straße привет 世界 你好 こんにちは नमस्ते عربى 12 345 6789 ٣٤٥ ² ½ 3.14
x+=1; foo(bar)[0] https://a.b/c?d=e 😀 👨‍👩‍👧 café cafe\u0301 '' ``` ... !? <|im_start|> <|im_end|> <tool_call> <|im_""".split()
SPACES = [" ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", ""]


def line(rng):
    return "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randint(0, 25)))


def vocabulary(rng):
    """Tokens, merges and token types of a small byte-level BPE with control and user-defined tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([line(rng) for _ in range(300)], trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    types = [1] * len(tokens) + [3, 3, 4]
    return tokens + ["<|im_start|>", EOS, TOOL], merges, types


def random_floats(rng, shape, kind):
    """Any finite bit pattern of the type: denormals, both zeros, the largest values."""
    width, exponent = {Q.F32: (32, 0x7f800000), Q.F16: (16, 0x7c00), Q.BF16: (16, 0x7f80)}[kind]
    bits = rng.integers(0, 1 << width, size=shape, dtype=np.uint64)
    bits.reshape(-1)[:2] = [0, 1 << (width - 1)]
    bits = np.where((bits & exponent) == exponent, bits ^ np.uint64(exponent & -exponent), bits)
    return bits.astype(np.uint32 if width == 32 else np.uint16)


def raw_matrix(rng, rows, columns, kind):
    """The bytes of a (rows, columns) matrix of a type, blocks with any scale that is finite."""
    if kind not in HALF_SCALES:
        return random_floats(rng, (rows, columns), kind).view(np.uint8).reshape(rows, -1)
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, size=(rows * columns // block_values, block_bytes), dtype=np.uint8)
    for at in HALF_SCALES[kind]:
        blocks[:, at:at + 2] = random_floats(rng, (len(blocks), 1), Q.F16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def write_model(path, kind, vocab, seed=0, pre="gpt-2", head=False, bias=False, factors=None, add_bos=None):
    rng = np.random.default_rng(seed)
    tokens, merges, types = vocab
    C, F, D = (256, 256, 64) if gguf.GGML_QUANT_SIZES[kind][0] == 256 else (globals()[size] for size in "CFD")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(L)
    writer.add_context_length(131072 if factors is not None else 256)
    writer.add_embedding_length(C)
    writer.add_feed_forward_length(F)
    writer.add_head_count(H)
    writer.add_head_count_kv(HKV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(D)
    writer.add_rope_freq_base(500000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_pad_token_id(tokens.index(EOS))
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    writer.add_chat_template("{{ messages[0].content }}")

    def matrix(name, rows, columns):
        data = raw_matrix(rng, rows, columns, kind)
        if kind in (Q.F32, Q.F16):
            data = data.view(np.float32 if kind == Q.F32 else np.float16)
        writer.add_tensor(name, data, raw_dtype=kind)

    def vector(name, size):
        writer.add_tensor(name, rng.standard_normal(size).astype(np.float32))

    matrix("token_embd.weight", len(tokens), C)
    vector("output_norm.weight", C)
    if head:
        matrix("output.weight", len(tokens), C)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for n in range(L):
        for name, rows, columns in [("attn_q", H * D, C), ("attn_k", HKV * D, C), ("attn_v", HKV * D, C),
                                    ("attn_output", C, H * D), ("ffn_gate", F, C), ("ffn_up", F, C), ("ffn_down", C, F)]:
            matrix(f"blk.{n}.{name}.weight", rows, columns)
            if bias and name.startswith("attn"):
                vector(f"blk.{n}.{name}.bias", rows)
        vector(f"blk.{n}.attn_norm.weight", C)
        vector(f"blk.{n}.ffn_norm.weight", C)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(source, out):
    subprocess.run([LEMA, "convert", str(source), str(out), "--dtype", "f32"], check=True, stdout=subprocess.DEVNULL)
    return out


def bits(tensor):
    return np.ascontiguousarray(tensor).view(np.uint32)


NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


def hugging_face(name, values, config):
    """Name and rows as Hugging Face has them: the inverse of the converter's swap of the two halves of each head."""
    if not name.startswith("blk."):
        return OUTER[name], values
    _, block, part, suffix = name.split(".")
    if part in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
        values = values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    return f"model.layers.{block}.{NAMES[part]}.{suffix}", values


def compare_tensors(source, out, transformers_loads=True):
    ours = load_file(out / "model.safetensors")
    config = AutoConfig.from_pretrained(out)
    expected = dict(hugging_face(t.name, gguf.dequantize(t.data, t.tensor_type), config)
                    for t in gguf.GGUFReader(source).tensors if t.name != "rope_freqs.weight")
    assert set(ours) == set(expected), set(ours) ^ set(expected)
    for name, values in expected.items():
        assert ours[name].shape == values.shape, (source.name, name)
        assert np.array_equal(bits(ours[name].numpy()), bits(values)), (source.name, name)
    if transformers_loads:
        theirs = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        state = theirs.state_dict()
        for name, tensor in ours.items():
            assert np.array_equal(bits(state[name].numpy()), bits(tensor.numpy())), (source.name, name)
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
                    "num_key_value_heads", "head_dim", "tie_word_embeddings", "max_position_embeddings", "eos_token_id",
                    "bos_token_id", "pad_token_id"):
            assert getattr(config, key) == getattr(theirs.config, key), key
        assert config.rope_parameters["rope_theta"] == theirs.config.rope_parameters["rope_theta"]
        assert math.isclose(config.rms_norm_eps, theirs.config.rms_norm_eps, rel_tol=1e-7)
    print(f"{source.name}: {len(ours)} tensors bit-equal")


def llama3_factors(theta, factor, low, high, original):
    """rope_freqs.weight as llama.cpp's converter derives it from the settings."""
    frequencies = 1.0 / (theta ** (torch.arange(0, D, 2, dtype=torch.float32) / D))
    out = []
    for frequency in frequencies:
        wave = 2 * math.pi / frequency
        if wave < original / high:
            out.append(1)
        elif wave > original / low:
            out.append(factor)
        else:
            smooth = (original / wave - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def compare_rope(folder, vocab):
    for settings in [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)]:
        factors = llama3_factors(500000.0, *settings)
        source = folder / f"llama3-{int(settings[0])}.gguf"
        write_model(source, Q.F32, vocab, factors=factors)
        config = AutoConfig.from_pretrained(convert(source, folder / source.stem))
        rope = config.rope_parameters
        found = (rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"],
                 rope["original_max_position_embeddings"])
        assert found == settings, (found, settings)
        plain = 1.0 / (500000.0 ** (torch.arange(0, D, 2, dtype=torch.float32) / D))
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        assert torch.allclose(scaled, plain / torch.from_numpy(factors), rtol=1e-5, atol=0)
        print(f"{source.name}: settings {found}")


def transformers_tokenizer(source, pre):
    """transformers' tokenizer of the file, given what its GGUF reader leaves out of the original tokenizers: it knows no
    smollm or starcoder (digits one by one), no NFC of the Qwen family and no ignore_merges."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    document["model"]["ignore_merges"] = pre in ("llama-bpe", "tekken")
    backend = Tokenizer.from_str(json.dumps(document))
    if pre in ("smollm", "starcoder"):
        backend.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre in ("qwen2", "qwen35"):
        backend.normalizer = normalizers.NFC()
    tokenizer._tokenizer = backend
    return tokenizer


def lema_ids(out, lines):
    process = subprocess.run([LEMA, "tokenize", "--model", str(out), "--json-lines"], text=True, check=True,
                             input="".join(json.dumps(text) + "\n" for text in lines), capture_output=True)
    return [json.loads(row) for row in process.stdout.splitlines()]


def compare_tokenizer(source, out, pre, lines):
    reference = transformers_tokenizer(source, pre)
    rebuilt = AutoTokenizer.from_pretrained(out)
    found = lema_ids(out, lines)
    assert len(found) == len(lines)
    for text, ids in zip(lines, found):
        expected = reference(text)["input_ids"]
        assert ids == expected, (pre, text, ids, expected)
        assert rebuilt(text)["input_ids"] == expected, (pre, text)
        assert rebuilt.decode(ids, skip_special_tokens=True) == reference.decode(ids, skip_special_tokens=True), text
    messages = [{"role": "user", "content": "hello"}]
    assert rebuilt.apply_chat_template(messages, tokenize=False) == reference.apply_chat_template(messages,
                                                                                                  tokenize=False)
    assert rebuilt.eos_token == reference.eos_token and rebuilt.bos_token == reference.bos_token
    print(f"{source.name}: pre {pre}, {len(lines)} lines give the same ids")


def plain_smollm_lines_agree(source, out, lines):
    """Without the correction above too, wherever digits cannot tell the two apart."""
    lines = [text for text in lines if not any(c.isnumeric() for c in text)]
    reference = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    for text, ids in zip(lines, lema_ids(out, lines)):
        assert ids == reference(text)["input_ids"], text
    return len(lines)


def main():
    rng = random.Random(7)
    vocab = vocabulary(rng)
    lines = [line(rng) for _ in range(LINES)] + ["", " ", ORACLE]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for seed, kind in enumerate(TYPES):
            source = folder / f"{kind.name}.gguf"
            write_model(source, kind, vocab, seed, head=seed % 2 == 0, bias=kind in (Q.F32, Q.Q4_1))
            # LlamaForCausalLM as transformers builds it from a GGUF file has no biases.
            compare_tensors(source, convert(source, folder / kind.name), kind not in (Q.F32, Q.Q4_1))
        compare_rope(folder, vocab)
        for pre in ("gpt-2", "smollm", "starcoder", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o"):
            source = folder / f"tokenizer-{pre}.gguf"
            write_model(source, Q.F16, vocab, pre=pre, add_bos=pre == "llama-bpe")
            out = convert(source, folder / source.stem)
            compare_tokenizer(source, out, pre, lines)
            if pre == "smollm":
                assert plain_smollm_lines_agree(source, out, lines) > LINES // 20
        for path in filter(None, os.environ.get("LEMA_GGUF", "").split(":")):
            source = pathlib.Path(path)
            out = convert(source, folder / ("real-" + source.stem))
            compare_tensors(source, out)
            pre = gguf.GGUFReader(source).fields["tokenizer.ggml.pre"].contents()
            compare_tokenizer(source, out, pre, lines)
            if pre == "smollm":
                digest = hashlib.sha256(str(lema_ids(out, [ORACLE])[0]).encode()).hexdigest()
                assert digest == SMOLLM_HASH, digest
                print(f"{source.name}: the oracle string gives the public hash")
    print("gguf_test: all equal")


if __name__ == "__main__":
    main()
