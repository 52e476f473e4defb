#!/usr/bin/env python3
"""Trains blocks of real sizes for 20 steps with their weights in every place; no bit of what comes out may differ.

    scripts/check_exactness.py --lema build/lema --folder /tmp/bench

For each of --sizes a folder of Llama's architecture with random bf16 weights is written once: blocks of 16 MiB (six
and seven of them), of Llama-2-7B (386 MiB, four) and of 608 MiB (five). LoRA r16 on all linears, dropout 0.1. The
first run holds all weights and keeps all activations; the others stream with two and with three slots, recompute or
offload, have a budget that keeps half of the blocks resident, and read weights from disk in every step. Losses,
gradient norms, the adapter and both moments of AdamW (which every gradient of the run has entered) must be those of the
first run; so must a second run of the first kind. Where one differs, or its plan and its steps are not those of its
place, the exit code is 1. --device cpu checks the same places on the CPU.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from bench_model import (LLAMA_7B, Shape, block_bytes, random_weights, resident_blocks, train_command,  # noqa: E402
                         write_model)

SIZES = {"16-even": Shape(6, 1024, 1376, 8, 4096), "16-odd": Shape(7, 1024, 1376, 8, 4096),
         "386": LLAMA_7B._replace(blocks=4), "608": LLAMA_7B._replace(blocks=5, F=20480)}
RESIDENT = ["memory.residency=resident", "memory.activations=keep"]
STREAM = ["memory.residency=stream"]


def train(options, name, settings):
    """What a run left: its folder, metrics by step, plan. Or its error."""
    output = options.folder / f"exact_{time.time_ns()}"
    command = train_command(options.lema, options.folder / f"exact_{name}", SIZES[name], output, 1, options.tokens, [
        f"train.max_steps={options.steps}", f"device={options.device}", "lora.dropout=0.1", *settings])
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        return None, (result.stderr.strip().splitlines() or ["no output"])[-1]
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return (output, [m for m in metrics if "step_ms" in m], json.loads((output / "plan.json").read_text())), None


def bits(run):
    """All that may not differ, by name."""
    output, metrics, _ = run
    found = {name: (output / "last" / name).read_bytes() for name in ("adapter_model.safetensors", "state.safetensors")}
    found["losses"] = [repr(m["loss"]) for m in metrics]
    found["gradient norms"] = [repr(m["grad_norm"]) for m in metrics]
    return found


def not_there(run, shape, streams, resident, expected):
    """Why this run's weights and activations did not lie where it is said; "" where they did. `expected`: of its plan."""
    _, steps, plan = run
    block = block_bytes(shape)
    other = [f"{key} is {plan[key]}, not {value}" for key, value in expected.items() if plan[key] != value]
    if other:
        return ", ".join(other)
    if resident_blocks(plan, shape.blocks) != resident:
        return f"{resident_blocks(plan, shape.blocks)} blocks are resident, not {resident}"
    if streams and not plan["in_place"] and any(m["h2d_bytes"] < block for m in steps):
        return "a step copied no block"
    if not streams and steps[-1]["h2d_bytes"] >= block:
        return f"{steps[-1]['h2d_bytes']} bytes were copied"
    if plan["ram_slots"] and any(m["disk_bytes"] < block for m in steps):
        return "a step read no block from disk"
    return ""


def check_size(options, name):
    """The places whose run failed or differs."""
    shape = SIZES[name]
    write_model(options.folder / f"exact_{name}", shape, random_weights)
    _, refusal = train(options, name, [*STREAM, "memory.activations=recompute", "memory.ram=1"])
    least = re.search(r"at least (\d+)", refusal or "")
    wrong, reference = [], {}

    def check(place, settings, streams=True, resident=0, **expected):
        """The plan of the run; null where that fails."""
        run, error = train(options, name, settings)
        if run and not reference:
            reference.update(bits(run))
            print(f"{name}: losses {reference['losses'][0]} to {reference['losses'][-1]}", flush=True)
        if run:
            found = bits(run)
            other = [what for what in reference if found[what] != reference[what]]
            error = f"differs in {', '.join(other)}" if other else not_there(run, shape, streams, resident, expected)
            last = run[1][-1]
            print(f"{name}, {place}: {error or 'the same bits'}; device {run[2]['device_bytes'] / 2**20:.0f} MiB, H2D "
                  f"{last['h2d_bytes'] / 1e9:.2f} GB and disk {last['disk_bytes'] / 1e9:.2f} GB a step", flush=True)
        else:
            print(f"{name}, {place}: {error}", flush=True)
        if error:
            wrong.append(f"{name}, {place}")
        return run and run[2]

    for place in ("resident", "resident again"):
        check(place, RESIDENT, streams=False, resident=shape.blocks, ring_slots=0, ram_slots=0, kept_blocks=shape.blocks)
    check("two slots, offload", [*STREAM, "memory.slots=2", "memory.activations=offload"],
          ring_slots=2, ram_slots=0, offload_boundaries=True, kept_blocks=0)
    recompute = {"offload_boundaries": False, "kept_blocks": 0}
    three = check("three slots, recompute", [*STREAM, "memory.slots=3", "memory.activations=recompute"],
                  ring_slots=3, ram_slots=0, **recompute)
    check("from disk", [*STREAM, "memory.activations=recompute", f"memory.ram={least[1] if least else 1}"],
          ram_slots=2, held_units=[], **recompute)
    if three:  # a slot less, and half of the blocks
        half = shape.blocks // 2
        check("half resident", [f"memory.vram={three['device_bytes'] + (half - 1) * block_bytes(shape)}",
                                "memory.activations=recompute"],
              resident=half, ring_slots=2, ram_slots=0, **recompute)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lema", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES), help="of blocks, in MiB")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    wrong = [place for name in options.sizes for place in check_size(options, name)]
    print(f"{len(wrong)} differ" + "".join(f"\n  {place}" for place in wrong), flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
