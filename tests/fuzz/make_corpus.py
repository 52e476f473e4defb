"""Writes the seeds of the fuzz targets, tests/fuzz/corpus/NAME/: small sound files that reach each part of a parser, and
inputs that once broke one, which are listed here too. Run it by hand after a change here; its output is committed."""
import base64
import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))
import gguf_malformed_test as gguf  # noqa: E402: the same builder of GGUF files


def safetensors():
    def entry(name, dtype, shape, begin, end):
        return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}'
    two = "{" + entry("a", "F32", [2, 3], 0, 24) + "," + entry("b", "BF16", [], 24, 26) + "}"
    meta = '{"__metadata__":{"format":"pt"},' + entry("z", "I64", [0, 3], 0, 0) + "," + entry("u", "U8", [4], 0, 4) + "}"
    small = "{" + entry("f4", "F4", [4], 0, 2) + "," + entry("f8", "F8_E4M3", [1, 1, 1, 1, 1, 1, 1, 1], 2, 3) + "}"
    for i, (header, data) in enumerate([(two, 26), (meta, 4), (small, 3), ("{}", 0), ("{}  ", 0)]):
        yield f"header{i}", b"\x01" + struct.pack("<H", data) + header.encode()
        yield f"file{i}", b"\x00" + struct.pack("<Q", len(header)) + header.encode() + bytes(data)
    yield "short", b"\x00" + struct.pack("<Q", len(two) + 8) + two.encode()
    yield "lfs", b"\x00version https://git-lfs.github.com/spec/v1\n"


def model_index():
    good = {"x": "a", "y": "a", "z": "sub/b"}
    yield "good", json.dumps({"metadata": {"total_size": 24}, "weight_map": good})
    yield "no_metadata", json.dumps({"weight_map": good})
    for i, path in enumerate(["../secret", "/etc/passwd", "l", "up/secret", "d", "p", "./a", "a//b", "a\\b", "b\x00", ""]):
        yield f"path{i}", json.dumps({"weight_map": {"x": path}})


def model_config():
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 16,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 32,
             "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "eos_token_id": [1, 2], "tie_word_embeddings": True}
    yield "llama", json.dumps(llama, indent=1)
    yield "ids_beyond", json.dumps({**llama, "eos_token_id": [-1, 0, 31, 32, 33, 1 << 40]})
    yield "llama3", json.dumps({**llama, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 32}})
    for kind in ("linear", "dynamic", "yarn"):
        yield kind, json.dumps({**llama, "rope_parameters": {"rope_type": kind, "factor": 2.0, "rope_theta": 1e4}})
    yield "qwen3", json.dumps({**llama, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 4,
                               "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1,
                               "layer_types": ["full_attention", "sliding_attention"]})
    yield "mistral", json.dumps({**llama, "model_type": "mistral", "architectures": None, "sliding_window": None})
    yield "phi3", json.dumps({**llama, "model_type": "phi3", "architectures": None, "partial_rotary_factor": 0.5,
                              "original_max_position_embeddings": 32, "rope_scaling": {
                                  "type": "longrope", "short_factor": [1.0], "long_factor": [4.0]}})
    yield "gpt2", json.dumps({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 16})


def gguf_files():
    yield "model", gguf.model()
    yield "sentencepiece", gguf.model({
        "tokenizer.ggml.model": (gguf.STRING, "llama"), "tokenizer.ggml.merges": None, "tokenizer.ggml.token_type": None,
        "tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.add_bos_token": (gguf.BOOL, False),
        "tokenizer.ggml.scores": (gguf.ARRAY, (gguf.F32, [0.0, -1.0, -2.0, -3.0]))})
    yield "rope", gguf.model({"llama.rope.scaling.type": (gguf.STRING, "linear"),
                              "llama.rope.scaling.factor": (gguf.F32, 2.0)})
    every = [gguf.key(f"k{kind}", kind, 1) for kind in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12)]
    every += [gguf.key("text", gguf.STRING, "x"), gguf.key("list", gguf.ARRAY, (gguf.STRING, ["a", "b"])),
              gguf.key("general.alignment", gguf.U32, 64)]
    yield "kinds", gguf.file(every)
    for kind, values, size in ((0, 4, 16), (1, 4, 8), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34),
                               (10, 256, 84), (11, 256, 110), (12, 256, 144), (13, 256, 176), (14, 256, 210), (30, 4, 8)):
        yield f"type{kind}", gguf.file((), [gguf.tensor("t", [values], kind, 0)], bytes(range(256))[:size])


def bpe(**changes):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {t: i for i, t in enumerate(["h", "e", "l", "o", "\u0120", "w", "he", "ll", "hell", "hello", "\u0120w"])}
    file = {"version": "1.0", "added_tokens": [
                {"id": 11, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True},
                {"id": 12, "content": "</s>", "single_word": True, "lstrip": True, "rstrip": True, "normalized": True,
                 "special": False}],
            "normalizer": None, "pre_tokenizer": byte_level, "decoder": byte_level,
            "post_processor": {"type": "TemplateProcessing",
                               "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [11], "tokens": ["<s>"]}}},
            "model": {"type": "BPE", "vocab": vocab, "merges": ["h e", "l l", ["he", "ll"], "hell o", "\u0120 w"]}}
    return json.dumps({**file, **changes}, ensure_ascii=False)


def tokenizer_json():
    yield "byte_level", bpe()
    yield "with_text", bpe() + "\0hello <s>world</s> he"
    vocab = {t: i for i, t in enumerate(["<unk>", "\u2581", "a", "b", "\u2581a", "ab", *[f"<0x{b:02X}>" for b in range(256)]])}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    yield "metaspace", bpe(pre_tokenizer=metaspace, post_processor=None, added_tokens=[], decoder={
        "type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                         {"type": "ByteFallback"}, {"type": "Fuse"},
                                         {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        model={"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
               "merges": [["\u2581", "a"], ["a", "b"]]})
    yield "split", bpe(normalizer={"type": "Sequence", "normalizers": [
        {"type": "NFC"}, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "h"},
        {"type": "Replace", "pattern": {"Regex": "o+"}, "content": "o"}, {"type": "Strip", "strip_left": True, "strip_right": True}]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)|\\d{1,3}"}, "behavior": "Isolated", "invert": False},
            {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "MergedWithNext"},
            {"type": "ByteLevel", "add_prefix_space": True, "use_regex": False}]})


def varint(value):
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text, score=0.0, kind=1):
    return field(1, field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) +
                 (field(3, kind) if kind != 1 else b""))


def tokenizer_model():
    pieces = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
    words = piece("a") + piece("b", -1) + piece("\u2581", -2) + piece("ab", -3) + piece("\u2581a", -4) + piece("x y", 0, 4)
    trainer = field(2, field(3, 2))
    normalizer = field(3, field(2, b"\x04\x00\x00\x00\x00\x00\x00\x00") + field(3, 1) + field(4, 0) + field(5, 1))
    fallback = b"".join(piece(f"<0x{b:02X}>", 0, 6) for b in range(256))
    for i in range(3):
        yield f"prefix{i}", bytes([i]) + pieces + words + trainer
    yield "normalizer", b"\0" + pieces + words + trainer + normalizer
    yield "bytes", b"\0" + pieces + words + fallback + field(2, field(3, 2) + field(35, 1))
    yield "ranks", b"\0" + b"".join(base64.b64encode(bytes([b])) + f" {b}\n".encode() for b in range(256))


def data_rows():
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows = [{"text": "a b"}, {"prompt": "p", "completion": "c"}, chat, {"instruction": "i", "input": "", "output": "o"},
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            {"tokens": [1, 2], "labels": [-100, 2]}, {"input_ids": [1], "mask": [0]},
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}], "tools": []}]
    yield "lines", b"\x00" + "\n".join(json.dumps(row) for row in rows).encode()
    yield "crlf", b"\x00\xef\xbb\xbf" + "\r\n\r\n".join(json.dumps(row) for row in rows[:2]).encode() + b"\r\n"
    yield "array", b"\x01" + json.dumps(rows, indent=1).encode()
    yield "json_lines", b"\x01" + json.dumps(rows[0]).encode()
    yield "csv", b"\x02prompt,completion\r\na,\"b \"\"q\"\"\nc\"\nd,e\n"
    yield "text", b"\x03one\n\ntwo\r\nthree"


def chat_template():
    yield "chatml", ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
                     "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    yield "generation", ("{%- for m in messages -%}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
                         "{% endgeneration %}{% elif loop.first %}{{ m['content'] | trim }}{% else %}{{ loop.index0 }}"
                         "{% endif %}{%- endfor -%}")
    yield "macro", ("{% macro show(x, y='d') %}[{{ x }}{{ y }}{{ caller() if caller }}]{% endmacro %}"
                    "{% call show(1) %}in{% endcall %}{% set ns = namespace(n=0) %}{% for i in range(3) %}"
                    "{% set ns.n = ns.n + i %}{% if i == 1 %}{% continue %}{% endif %}{% endfor %}{{ ns.n }}")
    yield "filters", ("{{ messages | map(attribute='role') | join(', ') | upper }}{{ tools | tojson(indent=2) }}"
                      "{{ [3, 1, 2] | sort | last }}{{ 'a-b' | replace('-', '_') | title }}{{ {'a': 1}.items() | list }}"
                      "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'x' * 3 ~ 1 }}")
    yield "slices", ("{{ messages[1:][0].content[::-1] }}{{ 'abc'[-2:] }}{{ 7 // 2 }}{{ -7 % 3 }}{{ 2 ** 8 }}{{ 1 / 3 }}"
                     "{{ 'k' in {'k': 1} and not none is defined }}{{ (1, 2)[0] }}{{ 'a' if x else 'b' }}")
    yield "slices_past_the_end", "{{ [1, 2, 3, 4][1:99] }}{{ 'abcd'[0:99:2] }}{{ 'abcd'[99::-1] }}{{ [1, 2][-99:99] }}"
    yield "strings", ("{{ ' a '.strip() }}{{ 'a,b'.split(',')[1] }}{{ 'ab'.startswith('a') }}{{ 'A'.lower().title() }}"
                      "{{ '%s %d' % ('a', 3) }}{{ '{}'.format(1) }}{% raw %}{{ }}{% endraw %}{# note #}"
                      "{% filter upper %}x{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}{{ strftime_now('%Y') }}")


def adapter_config():
    base = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "m", "r": 8, "lora_alpha": 16,
            "lora_dropout": 0.05, "target_modules": ["q_proj", "v_proj"], "bias": "none", "inference_mode": True}
    yield "plain", json.dumps(base, indent=1)
    yield "regex", json.dumps({**base, "target_modules": "all-linear", "use_rslora": True, "use_dora": True,
                               "exclude_modules": ".*lm_head", "init_lora_weights": "gaussian"})
    yield "patterns", json.dumps({**base, "rank_pattern": {"^q.*": 4}, "alpha_pattern": {"v_proj": 3.5},
                                  "modules_to_save": ["lm_head"], "layers_to_transform": [0, 1], "layers_pattern": "layers"})
    yield "nothing_left", json.dumps({**base, "lora_dropout": 1})
    yield "escape_in_a_pattern", json.dumps({**base, "rank_pattern": {"\x1b[2J": 0}})


RUN = {"model": "m", "output_dir": "o", "seed": 1, "method": "lora",
       "data": {"train": ["a.jsonl", "b.jsonl"], "eval_fraction": 0.1, "map": {"prompt": "q"}, "append_eos": "auto",
                "max_tokens": 64, "packing": False, "chat_template_kwargs": {"enable_thinking": False}},
       "lora": {"rank": 4, "targets": ["q_proj"], "rank_pattern": {".*v_proj": 2}, "layers": "all"},
       "optimizer": {"lr": 1e-3, "betas": [0.9, 0.99]}, "schedule": {"name": "wsd", "warmup": 0.1},
       "train": {"max_steps": 3, "batch_size": 2}, "memory": {"ram": "2 GiB", "vram": "auto"}, "guard": {"nonfinite": "skip"}}


def run_config_json():
    yield "small", json.dumps({"model": "m", "output_dir": "o", "data": {"train": "a.jsonl"}})
    yield "full", json.dumps(RUN, indent=1)


def run_config_toml():
    yield "small", 'model = "m"\noutput_dir = "o"\ndata.train = "a.jsonl"\n'
    lines = [f"{k} = {json.dumps(v)}" for k, v in RUN.items() if not isinstance(v, dict)]
    for section, members in RUN.items():
        if isinstance(members, dict):
            lines.append(f"[{section}]  # of the run")
            lines += [f"{k} = {json.dumps(v).replace(':', ' =') if isinstance(v, dict) else json.dumps(v)}"
                      for k, v in members.items()]
    yield "full", "\n".join(lines) + "\n"
    yield "strings", ("a = '''x\n''y'''\nb = \"\"\"\\\n  \\u00e9 \"q\" \"\"\"\n'k.1'.\"k 2\".c = [1_000, 0x1F, 0b1, 0o7,\n 1e3,"
                      " {x = true}]\n[[t]]\nz = -1.5\n[[t]]\n[t.u]\n")
    yield "nameless_table", 'a = 1\n[= [0.9, 0.99]\n[b]\n'
    yield "letter_in_a_number", 'model =77777777777\u0120__ """\\\n  \\u00e9  = "a.jso'
    yield "long_date", f"a = 1979-05-2{'_' * 116}7 10:00\n"


def manifest():
    files = {"a": {"bytes": 9, "crc32c": "e3069283"}, "b": {"bytes": 0, "crc32c": "00000000"}}
    yield "good", json.dumps({"format": 1, "step": 1, "run_id": "r", "files": files}, indent=2)
    yield "short", json.dumps({"format": 1, "step": 1, "run_id": "r", "files": {"a": files["a"]}})
    yield "path", json.dumps({"format": 1, "step": 1, "run_id": "r", "files": {"../a": files["a"]}})


def main():
    seeds = {"gguf": gguf_files, **{f.__name__: f for f in (
        safetensors, model_index, model_config, tokenizer_json, tokenizer_model, data_rows, chat_template, adapter_config,
        run_config_json, run_config_toml, manifest)}}
    for target, make in seeds.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in make():
            (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


if __name__ == "__main__":
    main()
