#!/usr/bin/env python3
"""Holds the losses of two runs that differ in one setting against each other, step by step; exit code 1 where a bar is
not met. Standard library only; the GPU is lema's.

    scripts/compare_losses.py quickstart --lema build/lema --model quickstart/model --folder /tmp/losses
    scripts/compare_losses.py f16 --lema build/lema --model quickstart/model --folder /tmp/losses

`quickstart`: configs/quickstart.json in bf16 on the GPU and on the CPU, every step's loss within 1 %; then the
GPU's adapter answers the held-out questions, at least 95 % of them in the strict format. `f16`: 1,000 steps (LoRA
r16, lr 3e-4, 6 rows a step) over 6,000 pieces of 600 characters of Python sources (--text), compute=f16 and bf16 on
the GPU: all losses finite, their means within 1 %.
"""
import argparse
import json
import math
import pathlib
import random
import shutil
import subprocess
import sys
import sysconfig

import make_reply_dataset

ROOT = pathlib.Path(__file__).resolve().parent.parent
PIECES, PIECE = 6000, 600
STEPS = 1000  # of f16
failures = []


def require(holds, what):
    if not holds:
        failures.append(what)
        print(f"FAILED: {what}", flush=True)
    return holds


def losses_of(options, name, settings):
    """Every step's loss and loss scale of a run into the folder of that name."""
    output = options.folder / name
    shutil.rmtree(output, ignore_errors=True)
    command = [options.lema, "train", "--config", ROOT / "configs" / "quickstart.json"]
    for setting in [f"model={options.model}", f"output_dir={output}", *settings, *options.set]:
        command += ["--set", setting]
    with open(options.folder / f"{name}.log", "w") as log:
        code = subprocess.run([str(part) for part in command], stdout=log, stderr=log).returncode
    if code != 0:
        sys.exit(f"{name}: exit {code}, {log.name}")
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [m for m in steps if "step_ms" in m]
    losses = [math.nan if m["loss"] is None else m["loss"] for m in steps]
    require(all(map(math.isfinite, losses)), f"{name}: a loss is not finite")
    print(f"{name}: {len(steps)} steps in {sum(m['step_ms'] for m in steps) / 1000:.1f} s, loss {losses[0]:.4f} to "
          f"{losses[-1]:.4f}, loss scale {steps[0].get('loss_scale', 1):.0f} to {steps[-1].get('loss_scale', 1):.0f}",
          flush=True)
    return losses


def quickstart(options):
    data = options.folder / "data"
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_reply_dataset.py"), "--output", str(data)], check=True,
                   stdout=subprocess.DEVNULL)
    cuda, cpu = (losses_of(options, f"quickstart_{device}", [f"data.train={data / 'train.jsonl'}", "compute=bf16",
                                                             f"device={device}"]) for device in ("cuda", "cpu"))
    differences = [abs(a / b - 1) for a, b in zip(cuda, cpu, strict=True)]
    largest = max(range(len(differences)), key=differences.__getitem__)
    print(f"GPU against CPU: mean {100 * sum(differences) / len(differences):.2f} %, largest "
          f"{100 * differences[largest]:.2f} % (step {largest + 1})", flush=True)
    for step, difference in enumerate(differences, 1):
        require(difference <= 0.01, f"step {step}: {cuda[step - 1]} on the GPU, {cpu[step - 1]} on the CPU")
    strict = make_reply_dataset.STRICT.pattern.replace(r"\Z", r"\z")
    command = [options.lema, "eval", "--model", options.model, "--adapter", options.folder / "quickstart_cuda" / "last",
               "--data", data / "heldout.jsonl", "--task", "match", "--pattern", strict, "--require-stop",
               "--max-new-tokens", "128", "--batch", "16", "--json", "--device", "cuda"]
    out = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"eval: exit {out.returncode}: {out.stderr}")
    share = json.loads(out.stdout)
    print(f"strict format: {share['matched']} of {share['rows']}", flush=True)
    require(share["match_share"] >= 0.95, "fewer than 95 % of the replies are in the strict format")


def write_pieces(path, text):
    """Pieces of one file each, of the files in a fixed order, drawn by a fixed seed."""
    pieces = []
    for file in sorted(pathlib.Path(text).rglob("*.py")):
        content = file.read_text(encoding="utf-8", errors="replace")
        pieces += [content[at:at + PIECE] for at in range(0, len(content) - PIECE + 1, PIECE)]
    if len(pieces) < PIECES:
        sys.exit(f"{text}: {len(pieces)} pieces of {PIECE} characters, {PIECES} needed")
    with open(path, "w") as out:
        for piece in random.Random(5).sample(pieces, PIECES):
            out.write(json.dumps({"text": piece}) + "\n")


def f16(options):
    rows = options.folder / "pieces.jsonl"
    write_pieces(rows, options.text)
    common = [f"data.train={rows}", "data.format=text", "device=cuda", "optimizer.lr=3e-4", "train.batch_size=6",
              f"train.max_steps={STEPS}", "lora.rank=16"]
    half, bf16 = (losses_of(options, compute, [*common, f"compute={compute}"]) for compute in ("f16", "bf16"))
    if not require(len(half) == len(bf16) == STEPS, f"{len(half)} steps in f16 and {len(bf16)} in bf16, not {STEPS}"):
        return
    for first, last in ((1, 100), (101, 300), (301, STEPS), (1, STEPS)):
        a, b = half[first - 1:last], bf16[first - 1:last]
        ratio = sum(a) / sum(b)
        print(f"steps {first} to {last}: bf16 mean loss {sum(b) / len(b):.5f}, f16 {sum(a) / len(a):.5f}, "
              f"ratio {ratio:.5f}", flush=True)
        require(abs(ratio - 1) <= 0.01, f"steps {first} to {last}: f16 / bf16 is {ratio:.5f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quickstart", "f16"])
    parser.add_argument("--lema", required=True)
    parser.add_argument("--model", required=True, help="SmolLM2-135M-Instruct, converted to bf16")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--text", default=sysconfig.get_paths()["stdlib"], help="a folder of Python sources for f16")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of every run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"quickstart": quickstart, "f16": f16}[options.what](options)
    print(f"{len(failures)} failed", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
