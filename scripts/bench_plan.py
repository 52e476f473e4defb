#!/usr/bin/env python3
"""What `lema plan` predicts and what is: peak memory as the kernel counts it, and the median step. Rows of random ids over a
model folder. Standard library only. With --anew the machine's rates are measured before each run instead of once: a shared
machine is another after a minute. A round is every run once; the last table has the medians of the rounds' ratios.

    scripts/bench_plan.py --lema build/lema --model quickstart/model [--only NAME ...] [--steps 5] [--rounds 3] [--anew]
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "support"))
from process_memory import run_and_watch  # noqa: E402

# name: rows a step, tokens a row, settings
ARMS = {
    "f32 keep": (4, 256, ["compute=f32", "memory.activations=keep"]),
    "f32 recompute": (4, 256, ["compute=f32", "memory.activations=recompute"]),
    "bf16 keep": (4, 256, ["compute=bf16", "memory.activations=keep"]),
    "bf16 auto": (4, 256, ["compute=bf16"]),
    "bf16 recompute": (4, 256, ["compute=bf16", "memory.activations=recompute"]),
    "bf16 short rows": (8, 96, ["compute=bf16"]),
    "bf16 long row": (1, 1024, ["compute=bf16"]),
    "bf16 one row at a time": (4, 256, ["compute=bf16", "train.micro_batch_size=1"]),
    "bf16 streamed, 300 MB": (4, 256, ["compute=bf16", "memory.vram=300MB"]),
    "bf16 buffered": (4, 256, ["compute=bf16", "memory.disk=buffered", "memory.residency=stream"]),
    "bf16 from disk, 400 MB": (4, 256, ["compute=bf16", "memory.ram=400MB", "memory.residency=stream"]),
    "bf16 from disk, short": (1, 64, ["compute=bf16", "memory.ram=300MB", "memory.residency=stream",
                                      "memory.disk=direct"]),
    "bf16 from a cached file, short": (1, 64, ["compute=bf16", "memory.ram=300MB", "memory.residency=stream",
                                               "memory.disk=buffered"]),
    "bf16 q and v, rank 64": (4, 256, ["compute=bf16", 'lora.targets=["q_proj","v_proj"]', "lora.rank=64"]),
    "bf16 dora": (4, 256, ["compute=bf16", "lora.dora=true"]),
    "bf16 dropout": (4, 256, ["compute=bf16", "lora.dropout=0.1"]),
    "bf16 embedding in full": (4, 256, ["compute=bf16", 'lora.modules_to_save=["embed_tokens"]']),
}


def command(args, folder, name, rows, steps, settings):
    base = [f"output_dir={folder / 'run'}", "data.format=tokens", "data.cache=off", f"train.batch_size={rows}",
            f"train.max_steps={steps}", "device=cpu"]
    return [args.lema, name, args.model, str(folder / "rows.jsonl")] + [x for s in base + settings for x in ("--set", s)]


def measure(args, folder, name):
    rows, tokens, settings = ARMS[name]
    rng = random.Random(3)
    lines = [json.dumps({"tokens": [rng.randrange(1000, 40000) for _ in range(tokens)]}) for _ in range(3 * rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    if args.anew:
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    # Short steps are many, for the first ones share the disk with the checksum of the weights.
    count = args.steps * max(1, 256 // (rows * tokens))
    plan = json.loads(subprocess.run(command(args, folder, "plan", rows, count, settings) + ["--json"],
                                     capture_output=True, text=True, check=True).stdout)
    code, errors, peak = run_and_watch(command(args, folder, "train", rows, count, settings))
    if code:
        sys.exit(f"{name}: exit {code}: {errors}")
    steps = [json.loads(line)["step_ms"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return plan, peak, steps[count // args.steps:]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lema", default="build/lema")
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--anew", action="store_true")
    args = parser.parse_args()
    print("| run | own MB predicted | counted | ratio | all MB predicted | counted | ratio | step ms predicted | median "
          "(low, high) | ratio |\n|---|---|---|---|---|---|---|---|---|---|")
    ratios = {name: [] for name in args.only}
    for name in args.only * args.rounds:
        with tempfile.TemporaryDirectory(prefix="lema_bench_plan_") as folder:
            plan, peak, steps = measure(args, pathlib.Path(folder), name)
        own, total, median = plan["process_bytes"], plan["process_bytes"] + plan["mapped_bytes"], statistics.median(steps)
        ratios[name].append(median / plan["step_ms"])
        print(f"| {name}, {ARMS[name][0]} x {ARMS[name][1]} | {own / 1e6:.1f} | {peak['RssAnon'] / 1e6:.1f} | "
              f"{peak['RssAnon'] / own:.3f} | {total / 1e6:.1f} | {peak['VmHWM'] / 1e6:.1f} | {peak['VmHWM'] / total:.3f} | "
              f"{plan['step_ms']:.0f} | {median:.0f} ({min(steps):.0f}, {max(steps):.0f}) | {ratios[name][-1]:.3f} |",
              flush=True)
    if args.rounds > 1:
        print("\n| run | median of the ratios | of each round |\n|---|---|---|")
        for name, found in ratios.items():
            print(f"| {name} | {statistics.median(found):.3f} | {' '.join(f'{ratio:.3f}' for ratio in found)} |")


if __name__ == "__main__":
    main()
