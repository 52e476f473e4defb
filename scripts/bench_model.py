"""What bench_gpu.py, bench_disk.py and check_exactness.py train, and the command that does: folders of Llama's
architecture in bf16, and rows of random ids."""
import collections
import json
import os
import pathlib
import random
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "support"))
import tiny_folder  # noqa: E402

# blocks; columns of the residual stream and of the MLP; heads; vocabulary
Shape = collections.namedtuple("Shape", "blocks C F H V")
LLAMA_7B = Shape(32, 4096, 11008, 32, 32000)


def tensors(shape):
    """Names and sizes in the order of use, which makes each block one extent of the file."""
    C, F, V = shape.C, shape.F, shape.V
    yield "model.embed_tokens.weight", [V, C]
    for b in range(shape.blocks):
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


def block_bytes(shape):
    return 2 * (4 * shape.C**2 + 3 * shape.C * shape.F + 2 * shape.C)


def resident_blocks(plan, blocks):
    """How many blocks lie, in every step, where the device computes with them."""
    if plan["in_place"] and not plan["ram_slots"]:
        return blocks
    return sum(unit < blocks for unit in plan["held_units" if plan["in_place"] else "resident_units"])


def write_model(folder, shape, make_weights):
    """Once. make_weights() gives a function from a tensor's size to its bytes; None makes a sparse file of zeros."""
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.C,
              "intermediate_size": shape.F, "num_hidden_layers": shape.blocks, "num_attention_heads": shape.H,
              "num_key_value_heads": shape.H, "vocab_size": shape.V, "max_position_embeddings": 65536,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False,
              "torch_dtype": "bfloat16", "eos_token_id": 256}
    if (folder / "model.safetensors").exists():
        if json.loads((folder / "config.json").read_text()) != config:
            sys.exit(f"{folder}: a model of another shape lies there")
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tiny_folder.byte_tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    header, offset = {}, 0
    for name, size in tensors(shape):
        count = 2 * size[0] * (size[1] if len(size) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [offset, offset + count]}
        offset += count
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 4096)
    with open(folder / "model.part", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        if make_weights is None:
            out.truncate(out.tell() + offset)
        else:
            weights = make_weights()
            for _, size in tensors(shape):
                out.write(weights(size))
        out.flush()
        os.fsync(out.fileno())
    (folder / "model.part").rename(folder / "model.safetensors")


def random_weights():
    """Makes bf16 numbers of either sign between 2^-7 and 2^-5, of norms ones, without torch."""
    draw = random.Random(1)

    def weights(size):
        if len(size) == 1:
            return b"\x80\x3f" * size[0]
        count = size[0] * size[1]
        values = bytearray(2 * count)
        values[0::2] = draw.randbytes(count)
        values[1::2] = draw.randbytes(count).translate(bytes(0x3c + 0x80 * (b & 1) for b in range(256)))
        return values
    return weights


def normal_weights():
    """Makes normal bf16 numbers, by torch."""
    import torch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)

    def weights(size):
        values = torch.randn(size, dtype=torch.bfloat16, device=device)
        values = values * 0.02 if len(size) > 1 else values * 0.1 + 1
        return values.cpu().view(torch.int16).numpy().tobytes()
    return weights


def write_rows(path, vocabulary, rows, length):
    draw = random.Random(7)
    with open(path, "w") as out:
        for _ in range(rows):
            ids = [draw.randrange(vocabulary) for _ in range(length)]
            out.write(json.dumps({"tokens": ids, "mask": [1] * length}) + "\n")


def rows_file(folder, shape, batch, length):
    """Of rows of `length` tokens for models of this shape, written once; as many as full batches take."""
    least = 64 if length < 8192 else 4
    rows = least + -least % batch
    path = folder / f"rows_{shape.V}x{length}x{rows}.jsonl"
    if not path.exists():
        write_rows(path, shape.V, rows, length)
    return path


def train_command(lema, model, shape, output, batch, length, settings):
    """Of a run with LoRA r16 on all linears, which writes a checkpoint at its end."""
    command = [lema, "train"]
    for setting in [f"model={model}", f"data.train={rows_file(model.parent, shape, batch, length)}", f"output_dir={output}",
                    "data.format=tokens", f"data.max_tokens={length}", f"train.batch_size={batch}", "lora.rank=16",
                    "compute=bf16", "checkpoint.every_steps=0", *settings]:
        command += ["--set", setting]
    return command


def write_mixed_rows(path, vocabulary, rows, length, seed):
    """Rows of 2 to `length` tokens, as many of one order of magnitude as of another; half of the tokens are trained."""
    draw = random.Random(seed)
    with open(path, "w") as out:
        for _ in range(rows):
            count = round(2 * (length / 2) ** draw.random())
            mask = [draw.randrange(2) for _ in range(count - 1)] + [1]
            ids = [draw.randrange(vocabulary) for _ in range(count)]
            out.write(json.dumps({"tokens": ids, "mask": mask}) + "\n")
