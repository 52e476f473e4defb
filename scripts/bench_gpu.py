#!/usr/bin/env python3
"""Times lema's training step on a GPU with a Llama-2-7B-shaped model of random normal weights, LoRA r16 on all linears.

    scripts/bench_gpu.py --lema build/lema --folder /tmp/bench --rows 1x512 4x2048 --vram 1x512=2GiB

Writes the model folder once (torch makes the weights; 13 GB in bf16), then runs every row streamed with a budget and
resident, and prints a table: median step of those after the second, its spread, GiB on the device by the plan and by
the driver (less what the driver counted before the run began to allocate), bytes copied per step.
"""
import argparse
import json
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import threading
import time

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
    import torch
    if (folder / "model.safetensors").exists():
        return
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


class DriverMemory:
    """The most MiB that the driver counts as used, polled."""

    def __init__(self):
        self.peak, self.running = 0, True
        self.thread = threading.Thread(target=self.poll)
        self.thread.start()

    @staticmethod
    def used():
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
        return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)

    def poll(self):
        while self.running:
            self.peak = max(self.peak, self.used())
            time.sleep(0.05)

    def stop(self):
        self.running = False
        self.thread.join()
        return self.peak


def run(lema, folder, batch, length, steps, settings):
    rows = folder / f"rows_{length}.jsonl"
    if not rows.exists():
        write_rows(rows, 64, length)
    output = folder / f"run_{batch}x{length}_{time.time_ns()}"
    command = [lema, "train", "--set", f"model={folder / 'model'}", "--set", f"data.train={rows}", "--set",
               f"output_dir={output}"]
    for setting in [f"train.batch_size={batch}", f"train.max_steps={steps}", "data.format=tokens", "device=cuda",
                    f"data.max_tokens={length}", "lora.rank=16", "lora.alpha=32", "compute=bf16",
                    "checkpoint.every_steps=1000000", *settings]:
        command += ["--set", setting]
    memory = DriverMemory()
    result = subprocess.run(command, capture_output=True, text=True)
    peak = memory.stop()
    if result.returncode != 0:
        return {"error": (result.stderr.strip() or result.stdout.strip()).splitlines()[-1][:150]}
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    timed = [m["step_ms"] for m in metrics if "step_ms" in m][2:]
    plan = json.loads((output / "plan.json").read_text())
    return {"ms": statistics.median(timed), "low": min(timed), "high": max(timed), "peak": peak / 1024,
            "h2d": metrics[-1].get("h2d_bytes", 0) / 1e9, "losses": [m["loss"] for m in metrics if "loss" in m],
            "plan": plan}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lema", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", default=["1x512", "8x512", "4x2048", "8x2048"])
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--vram", nargs="*", default=[], help="budgets of the streamed runs, e.g. 1x512=2GiB")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of every run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_model(options.folder / "model", options.blocks)
    before = DriverMemory.used() / 1024
    print(f"{'row':8} {'weights':9} {'median ms':>9} {'low':>8} {'high':>8} {'tok/s':>7} {'driver GiB':>10} "
          f"{'H2D GB':>7}  last loss", flush=True)
    budgets = dict(budget.split("=") for budget in options.vram)
    for row in options.rows:
        batch, length = map(int, row.split("x"))
        for placement in ("stream", "resident"):
            settings = [f"memory.residency={placement}", *options.set]
            if placement == "stream" and row in budgets:
                settings.append(f"memory.vram={budgets[row]}")
            r = run(options.lema, options.folder, batch, length, options.steps, settings)
            if "error" in r:
                print(f"{row:8} {placement:9} {r['error']}", flush=True)
                continue
            print(f"{row:8} {placement:9} {r['ms']:9.1f} {r['low']:8.1f} {r['high']:8.1f} "
                  f"{1000 * batch * length / r['ms']:7.0f} {r['peak'] - before:10.2f} {r['h2d']:7.2f}  "
                  f"{r['losses'][-1]!r}", flush=True)


if __name__ == "__main__":
    main()
