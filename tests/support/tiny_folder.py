"""Writes small model folders with the standard library: a Llama model of zeros, or any tensors, in safetensors. Used by
the Python tests of the command line and of the parity of text."""
import json
import math
import pathlib
import struct

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1}


def write_safetensors(path, tensors, metadata=None):
    """tensors: {name: (dtype, shape)} or {name: (dtype, shape, bytes)}; without bytes they are zeros."""
    header, offset, data = {}, 0, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, *values) in tensors.items():
        size = SIZES[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        data += values[0] if values else bytes(size)
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def llama_config(vocabulary, blocks=1):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": blocks, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
            "vocab_size": vocabulary, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "float32"}


def llama_tensors(vocabulary, blocks=1):
    tensors = {"model.embed_tokens.weight": ("F32", [vocabulary, 8]), "model.norm.weight": ("F32", [8])}
    for block in range(blocks):
        shapes = {"input_layernorm": [8], "post_attention_layernorm": [8], "self_attn.q_proj": [8, 8],
                  "self_attn.k_proj": [4, 8], "self_attn.v_proj": [4, 8], "self_attn.o_proj": [8, 8],
                  "mlp.gate_proj": [16, 8], "mlp.up_proj": [16, 8], "mlp.down_proj": [8, 16]}
        for name, shape in shapes.items():
            tensors[f"model.layers.{block}.{name}.weight"] = ("F32", shape)
    return tensors


def write_llama(folder, vocabulary, **config):
    """config.json and model.safetensors; more keys go into the config."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**llama_config(vocabulary), **config}))
    write_safetensors(folder / "model.safetensors", llama_tensors(vocabulary))
    return folder


def poison_token(folder, token):
    """Makes a Llama folder's head its own and the embedding of one token NaN: rows that hold it have a loss of NaN,
    others have not."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    rows, nan = config["vocab_size"], struct.pack("<8f", *[math.nan] * 8)
    tensors = llama_tensors(rows)
    tensors["lm_head.weight"] = ("F32", [rows, 8])
    tensors["model.embed_tokens.weight"] = ("F32", [rows, 8], bytes(32 * token) + nan + bytes(32 * (rows - token - 1)))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def byte_alphabet():
    """The stand-in characters of the 256 bytes in byte-level vocabularies."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    symbols = {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [symbols[b] for b in range(256)]


def byte_tokenizer(specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
    """tokenizer.json of a tokenizer whose tokens are the bytes and `specials`, ids from 256."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": 256 + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, content in enumerate(specials)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {symbol: i for i, symbol in enumerate(byte_alphabet())}, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}


def write_byte_model(folder, chat_template=None, **config):
    """A Llama folder with the byte tokenizer (259 ids)."""
    folder = write_llama(folder, 259, eos_token_id=256, **config)
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder
