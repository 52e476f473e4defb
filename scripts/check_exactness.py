#!/usr/bin/env python3
"""Trains blocks of real sizes for 20 steps with their weights in every place; no bit of what comes out may differ.

    scripts/check_exactness.py --lema build/lema --folder /tmp/bench

For each of --sizes a folder of Llama's architecture with random bf16 weights is written once: blocks of 16 MiB (six
and seven of them), of Llama-2-7B (386 MiB, four) and of 608 MiB (five). LoRA r16 on all linears, dropout 0.1. The
first run holds all weights and keeps all activations; the others stream with two and with three slots, recompute or
offload, have a budget that keeps half of the blocks resident, and read weights from disk in every step. Losses,
gradient norms, the adapter and both moments of AdamW (which every gradient of the run has entered) must be those of the
first run; so must a second run of the first kind. Where one differs the exit code is 1. --device cpu checks the same
places on the CPU, but for the budget of device memory.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from bench_model import LLAMA_7B, Shape, block_bytes, random_weights, train_command, write_model  # noqa: E402

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


def not_there(options, place, run, block):
    """Why this run's weights did not lie where it is said; "" where they did."""
    last, plan, on_gpu = run[1][-1], run[2], options.device != "cpu"
    if place == "from disk" and not (plan["ram_slots"] and last["disk_bytes"]):
        return "no block was read from disk"
    if on_gpu and place.startswith("resident") == (last["h2d_bytes"] >= block):
        return f"{last['h2d_bytes']} bytes were copied"
    if place == "half resident" and not plan["resident_units"]:
        return "nothing is resident"
    return ""


def check_size(options, name):
    """The places whose run failed or differs."""
    write_model(options.folder / f"exact_{name}", SIZES[name], random_weights)
    _, refusal = train(options, name, [*STREAM, "memory.activations=recompute", "memory.ram=1"])
    least = re.search(r"at least (\d+)", refusal or "")
    places = [("resident", RESIDENT), ("resident again", RESIDENT),
              ("two slots, offload", [*STREAM, "memory.slots=2", "memory.activations=offload"]),
              ("three slots, recompute", [*STREAM, "memory.slots=3", "memory.activations=recompute"]),
              ("from disk", [*STREAM, "memory.activations=recompute", f"memory.ram={least[1] if least else 1}"])]
    wrong, expected = [], None
    for place, settings in places:
        run, error = train(options, name, settings)
        if run and not expected:
            expected = bits(run)
            print(f"{name}: losses {expected['losses'][0]} to {expected['losses'][-1]}", flush=True)
        if run:
            found = bits(run)
            other = [what for what in expected if found[what] != expected[what]]
            error = f"differs in {', '.join(other)}" if other else not_there(options, place, run, block_bytes(SIZES[name]))
            last = run[1][-1]
            print(f"{name}, {place}: {error or 'the same bits'}; device {run[2]['device_bytes'] / 2**20:.0f} MiB, H2D "
                  f"{last['h2d_bytes'] / 1e9:.2f} GB and disk {last['disk_bytes'] / 1e9:.2f} GB a step", flush=True)
        else:
            print(f"{name}, {place}: {error}", flush=True)
        if error:
            wrong.append(f"{name}, {place}")
        if run and place == "two slots, offload" and options.device != "cpu":
            half = SIZES[name].blocks // 2 * block_bytes(SIZES[name]) * 21 // 20
            places.append(("half resident", [f"memory.vram={run[2]['device_bytes'] + half}",
                                             "memory.activations=recompute"]))
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
