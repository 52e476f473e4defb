#!/usr/bin/env python3
"""Times lema's training step on the CPU when its weights come from disk in every step, against what compute alone and
reading alone take; and trains a step of Llama-2-7B's shape in little memory.

    scripts/bench_disk.py --lema build/lema --reader build/tests/bench_disk --folder /tmp/bench

The model (2.5 GB of random bf16 weights) is written once. A round is, for every row count: a run that holds all weights
and a run under --ram, which reads them and stands still after every second step for a reading alone (rate_beside.py).
Its mean step is held to the mean of max(step of the run that holds them, bytes of the step / rate around it), of the
steps beside which neither run reads its checksum; figures are medians over the rounds.
--seven-b makes a sparse file of 13 GB that holds zeros and trains one step under memory.ram 2.4 GB instead.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import rate_beside  # noqa: E402
from bench_model import LLAMA_7B, Shape, random_weights, train_command, write_model  # noqa: E402
from process_memory import run_and_watch  # noqa: E402

SMALL = Shape(24, 2048, 5632, 16, 32000)  # 2.5 GB


def drop_cache(folder):
    with open(folder / "model.safetensors", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def command_of(options, model, shape, batch, length, steps, settings):
    """A run's command and its folder."""
    output = options.folder / f"run_{time.time_ns()}"
    command = train_command(options.lema, model, shape, output, batch, length,
                            [f"train.max_steps={steps}", "device=cpu", *settings, *options.set])
    drop_cache(model)
    return command, output


def run_arm(options, rows, read, *settings):
    """The rates of read() and the steps after the checksum. No arm keeps activations: the budget would leave one of them
    less room for these."""
    command, output = command_of(options, options.folder / "model", SMALL, *map(int, rows.split("x")), options.steps, [
        "memory.disk=direct", "memory.activations=recompute", *settings])
    code, rates, steps = rate_beside.run_beside_readings(command, output, options.steps, read)
    if code != 0 or not steps:
        sys.exit(f"{rows}: exit {code}, {len(steps)} steps after the checksum of the weights, which more --steps outlast: "
                 f"{output}.log")
    return rates, steps


def bench_tier(options):
    model = options.folder / "model"
    write_model(model, SMALL, random_weights)

    def read():
        drop_cache(model)
        return rate_beside.read_alone(options.reader, model)

    totals = {rows: [] for rows in options.rows}
    for _ in range(options.rounds):
        for rows in options.rows:
            _, held_steps = run_arm(options, rows, lambda: 1)  # there is nothing to read
            rates, steps = run_arm(options, rows, read, f"memory.ram={options.ram}")
            first = max(held_steps[0]["step"], steps[0]["step"])
            steps = [m for m in steps if m["step"] >= first]
            held = statistics.median(m["own_ms"] for m in held_steps if m["step"] >= first)
            print(f"{rows}: held {held:.0f} ms, read alone GB/s {' '.join(f'{r / 1e9:.2f}' for r in rates.values())}; steps "
                  + ", ".join(f"{m['own_ms']:.0f} ms ({m['own_ms'] / max(held, m['read_ms']):.3f})" for m in steps),
                  flush=True)
            own, alone, disk, stall = (sum(m[key] for m in steps) / len(steps)
                                       for key in ("own_ms", "read_ms", "disk_bytes", "stall_ms"))
            floor = sum(max(held, m["read_ms"]) for m in steps) / len(steps)
            totals[rows].append((disk / alone / 1e6, held, own, disk / 1e9, stall, own / floor))
    print("| rows x tokens | read alone GB/s | step, all held ms | step from disk ms | read GB a step | stall ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for rows, values in totals.items():
        rate, held, step, disk, stall, ratio = (statistics.median(v) for v in zip(*values))
        print(f"| {rows} | {rate:.2f} | {held:.0f} | {step:.0f} | {disk:.2f} | {stall:.0f} | {ratio:.3f} |")


def bench_seven_b(options):
    model = options.folder / "seven_b"
    write_model(model, LLAMA_7B, None)
    command, output = command_of(options, model, LLAMA_7B, 1, 128, 1, ["memory.ram=2.4GB"])
    code, errors, peak = run_and_watch(command)
    if code != 0:
        sys.exit(errors)
    [step], plan = rate_beside.steps_of(output), json.loads((output / "plan.json").read_text())
    planned = plan["process_bytes"] + plan["mapped_bytes"]
    print(f"step {step['step_ms'] / 1000:.1f} s, read {step['disk_bytes'] / 1e9:.1f} GB, peak RSS "
          f"{peak['VmHWM'] / 1e9:.3f} GB, planned {planned / 1e9:.3f} GB of 2.4")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lema", required=True)
    parser.add_argument("--reader", help="build/tests/bench_disk")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", default=["2x256", "8x256"], help="1x16, of short steps, needs some 24 --steps")
    parser.add_argument("--ram", default="1GB")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seven-b", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of every run")
    options = parser.parse_args()
    if not options.seven_b and not pathlib.Path(options.reader or "").is_file():
        parser.error("--reader: no such program; it is build/tests/bench_disk")
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.seven_b:
        bench_seven_b(options)
    else:
        bench_tier(options)


if __name__ == "__main__":
    main()
