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
from bench_model import LLAMA_7B, Shape, random_weights, write_model, write_rows  # noqa: E402

SIZES = {"16-even": Shape(6, 1024, 1376, 8, 4096), "16-odd": Shape(7, 1024, 1376, 8, 4096),
         "386": LLAMA_7B._replace(blocks=4), "608": LLAMA_7B._replace(blocks=5, F=20480)}
RESIDENT = ["memory.residency=resident", "memory.activations=keep"]
STREAM = ["memory.residency=stream"]


def train(options, name, settings):
    """What a run left: its folder, metrics by step, plan. Or its error."""
    rows, output = options.folder / f"rows_{name}.jsonl", options.folder / f"exact_{time.time_ns()}"
    if not rows.exists():
        write_rows(rows, SIZES[name].V, 64, options.tokens)
    command = [options.lema, "train"]
    for setting in [f"model={options.folder / f'exact_{name}'}", f"data.train={rows}", f"output_dir={output}",
                    f"train.max_steps={options.steps}", "train.batch_size=1", "data.format=tokens",
                    f"data.max_tokens={options.tokens}", f"device={options.device}", "lora.rank=16", "lora.dropout=0.1",
                    "compute=bf16", "checkpoint.every_steps=1000000", *settings]:
        command += ["--set", setting]
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


def check_size(options, name):
    """The places whose run failed or differs."""
    write_model(options.folder / f"exact_{name}", SIZES[name], random_weights)
    reference, error = train(options, name, RESIDENT)
    if error:
        print(f"{name}: {error}", flush=True)
        return ["resident"]
    expected = bits(reference)
    losses = expected["losses"]
    print(f"{name}: losses {losses[0]} to {losses[-1]}, {len(losses)} steps", flush=True)
    places = {"resident again": RESIDENT, "two slots, offload": [*STREAM, "memory.slots=2", "memory.activations=offload"],
              "three slots, recompute": [*STREAM, "memory.slots=3", "memory.activations=recompute"]}
    _, refusal = train(options, name, [*STREAM, "memory.activations=recompute", "memory.ram=1"])
    least = re.search(r"at least (\d+)", refusal or "")
    places["from disk"] = [*STREAM, "memory.activations=recompute", f"memory.ram={least[1] if least else 1}"]
    wrong = []
    while places:
        place, settings = next(iter(places.items()))
        del places[place]
        run, error = train(options, name, settings)
        found = bits(run) if run else {}
        other = [what for what in expected if found.get(what) != expected[what]]
        last = run[1][-1] if run else {}
        if place == "from disk" and not last.get("disk_bytes"):
            other.append("nothing was read from disk")
        if place != "from disk" and "resident" not in place and options.device == "cuda" and not last.get("h2d_bytes"):
            other.append("nothing was copied")
        if place == "two slots, offload" and run and options.device == "cuda":
            shape = SIZES[name]
            half = shape.blocks // 2 * 2 * (4 * shape.C**2 + 3 * shape.C * shape.F) * 21 // 20  # bytes
            places["half resident"] = [f"memory.vram={run[2]['device_bytes'] + half}", "memory.activations=recompute"]
        print(f"{name}, {place}: {error or ('differs in ' + ', '.join(other) if other else 'the same bits')}; "
              f"device {run[2]['device_bytes'] / 2**20 if run else 0:.0f} MiB, H2D "
              f"{last.get('h2d_bytes', 0) / 1e9:.2f} GB and disk {last.get('disk_bytes', 0) / 1e9:.2f} GB a step",
              flush=True)
        if other:
            wrong.append(f"{name}, {place}")
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
