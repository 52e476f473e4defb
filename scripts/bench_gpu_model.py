"""What bench_gpu.py trains: folders of Llama-2-7B's shape with random normal weights, and rows of random ids."""
import json
import pathlib
import random
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "support"))
import tiny_folder  # noqa: E402

C, F, H, V = 4096, 11008, 32, 32000


def tensors(blocks):
    """Names and shapes in the order of use, which makes each block one extent of the file."""
    yield "model.embed_tokens.weight", [V, C]
    for b in range(blocks):
        block = f"model.layers.{b}."
        yield block + "input_layernorm.weight", [C]
        for name in "qkvo":
            yield f"{block}self_attn.{name}_proj.weight", [C, C]
        yield block + "post_attention_layernorm.weight", [C]
        yield block + "mlp.gate_proj.weight", [F, C]
        yield block + "mlp.up_proj.weight", [F, C]
        yield block + "mlp.down_proj.weight", [C, F]
    yield "model.norm.weight", [C]
    yield "lm_head.weight", [V, C]


def write_model(folder, blocks):
    if (folder / "model.safetensors").exists():
        return
    import torch
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": C, "intermediate_size": F,
              "num_hidden_layers": blocks, "num_attention_heads": H, "num_key_value_heads": H, "vocab_size": V,
              "max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
              "tie_word_embeddings": False, "torch_dtype": "bfloat16", "eos_token_id": 256}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tiny_folder.byte_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    header, offset = {}, 0
    for name, shape in tensors(blocks):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 4096)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    with open(folder / "model.part", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(blocks):
            values = torch.randn(shape, dtype=torch.bfloat16, device=device)
            values = values * 0.02 if len(shape) > 1 else values * 0.1 + 1
            out.write(values.cpu().view(torch.int16).numpy().tobytes())
    (folder / "model.part").rename(folder / "model.safetensors")


def write_rows(path, rows, length):
    draw = random.Random(7)
    with open(path, "w") as out:
        for _ in range(rows):
            ids = [draw.randrange(V) for _ in range(length)]
            out.write(json.dumps({"tokens": ids, "mask": [1] * length}) + "\n")


def write_mixed_rows(path, rows, length, seed):
    """Rows of 2 to `length` tokens, as many of one order of magnitude as of another; half of the tokens are trained."""
    draw = random.Random(seed)
    with open(path, "w") as out:
        for _ in range(rows):
            count = round(2 * (length / 2) ** draw.random())
            mask = [draw.randrange(2) for _ in range(count - 1)] + [1]
            out.write(json.dumps({"tokens": [draw.randrange(V) for _ in range(count)], "mask": mask}) + "\n")
