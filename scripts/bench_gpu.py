#!/usr/bin/env python3
"""Times lema's training step on a GPU with a Llama-2-7B-shaped model of random normal weights, LoRA r16 on all linears.

    scripts/bench_gpu.py --lema build/lema --folder /tmp/bench --rows 1x512 4x2048 --vram 1x512=2.1GiB

Writes a model folder for each number of blocks once (torch makes the weights; 13 GB in bf16 for 32). First, unless
--no-gradients says not to, it compares lema's gradients of the rows of --gradients, by a model of --gradient-blocks,
with those of lema on the CPU (f32) and of transformers and PEFT (f32 and bf16): every tensor's difference in f32 within
1e-4 (norms), and in bf16 within twice what PEFT's own bf16 differs from its f32.

Then it runs every row streamed (with a budget: as much of it as that does not hold), with half of the blocks resident
and with all of them, and prints a table: median step of those after the second, its spread, MiB on the device by the
plan and by the driver's count less what stood there when context and kernels were loaded (that is `base`), what that
count grew by in the steps, bytes copied per step, MiB of the process's own by the plan (page-locked and ordinary
memory) and as the kernel counted it (RssAnon and VmHWM, those of the driver too). The last two runs of a row keep,
recompute and offload what the first did, so that only the place of the weights differs (and there is none where it keeps
some blocks' activations only); their losses must be the same in every bit, plan and driver agree within 2 %, the
driver's count not grow, every step be of all tokens of the row, and the blocks that are named be resident. --bus runs a
row once more with log.trace, and stops it after every second step to make plain pinned copies, for what its steps make
of the bus. --disk runs a row under --ram, and stops it after every second step to read the weights alone (--reader,
tests/bench/disk.cpp), for what its steps make of the disk. Both count the steps after the checksum of the weights, so
that a row whose steps are short needs many of them. --mixed runs 200 steps of rows of every length up to the row's, and
an evaluation, in which the driver's count must not grow either: kernels are chosen by a step's tokens. --peft times
transformers and PEFT (bench_gpu_peft.py) in each of --arms: all resident with and without checkpointing of activations,
with the kernels of liger_kernel, and with FSDP2's offload of weights to the CPU. What failed is said where it does and
once more at the end; then the exit code is 1.
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess
import sys
import threading
import time

SCRIPTS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent / "tests" / "support")]
import rate_beside  # noqa: E402
from bench_model import (LLAMA_7B, block_bytes, normal_weights, resident_blocks, rows_file, train_command,  # noqa: E402
                         write_mixed_rows, write_model)
from process_memory import run_and_watch  # noqa: E402

MODULES = [*(f"self_attn.{m}_proj" for m in "qkvo"), *(f"mlp.{m}_proj" for m in ("gate", "up", "down"))]
ARMS = {"checkpointing": ["--checkpointing"], "plain": [], "liger": ["--checkpointing", "--liger"],
        "fsdp": ["--checkpointing", "--fsdp"]}
F32_BOUND = 1e-4  # of gradients, as in tests/parity/train_test.py
F32_LOSS_BOUND = 1e-6  # likewise
BF16_BOUND = 2  # times the reference's own rounding
failures = []


def require(holds, what):
    """Notes what failed; whoever asks goes on."""
    if not holds:
        failures.append(what)
        print(f"FAILED: {what}", flush=True)
    return holds


def last_line(text):
    return (text.strip().splitlines() or ["no output"])[-1][:200]


class DriverMemory:
    """The most MiB that the driver counts as used, polled."""

    def __init__(self):
        self.before, self.running = self.used(), True
        self.peak = self.before
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
        return self.peak - self.before


class PlainCopies:
    """Plain copies of 2 GiB of pinned memory, in a process of its own that waits for the next reading, and then as long
    as the GPU may take for what it had of a run that was stopped."""
    CODE = """import statistics, sys, time, torch
host = torch.ones(1 << 31, dtype=torch.uint8).pin_memory()
there = torch.empty_like(host, device="cuda")
for wait_s in sys.stdin:
    time.sleep(float(wait_s))
    rates = []
    for _ in range(9):
        torch.cuda.synchronize()
        start = time.perf_counter()
        there.copy_(host, non_blocking=True)
        torch.cuda.synchronize()
        rates.append(host.numel() / (time.perf_counter() - start))
    print(statistics.median(rates[1:]), flush=True)"""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def rate(self, wait_s):
        """Bytes per second, the median of eight copies."""
        self.process.stdin.write(f"{wait_s}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline() or sys.exit("plain copies could not be made"))


def copy_rate():
    with PlainCopies() as copies:
        return copies.rate(0)


def describe_bus(options, batch, length, settings):
    """Of the steps beside which nothing read the weights: the rate of their copies from the first to the last, and their
    time beside that of 26 GB, about what both passes over the weights are, and of their own bytes, all at the rate of the
    plain copies that were made around them while the run stood still (rate_beside.py), but for the steps in which it did;
    and beside the time of 26 GB at their own copies' rate."""
    row, trace, output = f"{batch}x{length} bus", options.folder / "trace.json", options.folder / f"bus_{time.time_ns()}"
    command = command_of(options, batch, length, [*settings, f"log.trace={trace}"], output)
    with PlainCopies() as copies:
        def read():  # two steps are the most that the GPU still has to do; one of the last two had no pause
            last = [m["step_ms"] for m in rate_beside.steps_of(output)[-2:]]
            return copies.rate(max(1, 2e-3 * min(last)) if last else 0)
        code, rates, steps = rate_beside.run_beside_readings(command, output, options.steps, read)
    steps = {m["step"]: m for m in steps if not m["paused"]}
    if not require(code == 0 and steps, f"{row}: exit {code}, {len(steps)} steps after the checksum of the weights"):
        return
    judge_tokens(row, batch, length, steps.values())
    events = {number: [] for number in steps}
    for event in json.loads(trace.read_text()):
        if event["ph"] == "X" and event["tid"] == 1 and event["args"].get("step") in steps:
            events[event["args"]["step"]].append(event)
    figures = []
    for number, m in steps.items():
        copies = sorted(events[number], key=lambda e: e["ts"])
        begin, end = copies[0]["ts"], copies[-1]["ts"] + copies[-1]["dur"]  # us
        size, busy = sum(e["args"]["bytes"] for e in copies), sum(e["dur"] for e in copies)
        figures.append((m["step_ms"], size / (end - begin) / 1e3, size / (end - begin) * 1e6 / m["rate"],
                        m["step_ms"] * m["rate"] / 26e12, m["step_ms"] * m["rate"] / size / 1e3,
                        m["step_ms"] * size / busy / 26e6, (end - begin - busy) / 1e3))
    print(f"{row}, plain copies GB/s: {' '.join(f'{r / 1e9:.2f}' for r in rates.values())}", flush=True)
    ms, rate, share, of_plain, of_bytes, of_own, idle = zip(*figures)
    middle = lambda values, digits: (f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to "
                                     f"{max(values):.{digits}f})")
    print(f"{row}: {len(figures)} steps of {middle(ms, 1)} ms, copies from first to last at {middle(rate, 2)} GB/s, "
          f"{middle(share, 4)} of the plain rate around them, {statistics.median(idle):.2f} ms of them idle; a step is "
          f"{middle(of_plain, 4)} of 26 GB at the plain rate, {middle(of_bytes, 4)} of its own bytes, and "
          f"{middle(of_own, 4)} of 26 GB at the rate of its copies", flush=True)


def model_folder(options, blocks):
    return options.folder / f"model_{blocks}"


def write_blocks(options, blocks):
    write_model(model_folder(options, blocks), LLAMA_7B._replace(blocks=blocks), normal_weights)


def judge_tokens(row, batch, length, steps):
    found = {m["tokens"] for m in steps}
    require(found == {batch * length}, f"{row}: steps of {sorted(found)} tokens, not {batch * length}")


def command_of(options, batch, length, settings, output, blocks=None):
    return train_command(options.lema, model_folder(options, blocks or options.blocks), LLAMA_7B, output, batch, length, [
        f"train.max_steps={options.steps}", "device=cuda", "lora.alpha=32", "data.shuffle=false", *options.set, *settings])


def run(options, batch, length, settings, output=None, blocks=None):
    output = output or options.folder / f"run_{batch}x{length}_{time.time_ns()}"
    command = command_of(options, batch, length, settings, output, blocks)
    memory = DriverMemory()
    try:
        code, errors, process = run_and_watch(command, every=0.05)
    finally:
        peak = memory.stop()
    if code != 0:
        return {"error": f"exit {code}: {last_line(errors)}"}
    metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = [m for m in metrics if "step_ms" in m]
    timed = [m["step_ms"] for m in steps[2:] or steps]
    vram = [m.get("vram_bytes", 0) for m in steps]
    return {"ms": statistics.median(timed), "low": min(timed), "high": max(timed), "peak": peak,
            "vram": vram[-1] / 2**20, "growth": max(vram) - vram[0], "h2d": steps[-1]["h2d_bytes"] / 1e9,
            "disk": steps[-1]["disk_bytes"] / 1e9, "losses": [m["loss"] for m in steps], "steps": steps,
            "process": process, "plan": json.loads((output / "plan.json").read_text())}


def judge_memory(row, r):
    """The plan's MiB; the driver's count is within 2 % of it and stays the same."""
    planned = r["plan"]["device_bytes"] / 2**20
    require(abs(r["vram"] / planned - 1) <= 0.02, f"{row}: the driver counts {r['vram'] / planned:.4f} of the plan")
    require(r["growth"] == 0, f"{row}: the driver's count grew by {r['growth']} bytes")
    return planned


def check_mixed(options, batch, length, settings):
    train, evaluation = (options.folder / f"mixed_{batch}x{length}_{name}.jsonl" for name in ("train", "eval"))
    write_mixed_rows(train, LLAMA_7B.V, 200 * batch, length, seed=5)
    write_mixed_rows(evaluation, LLAMA_7B.V, 8, length, seed=6)
    r = run(options, batch, length, [f"data.train={train}", f"data.eval={evaluation}", "train.max_steps=200",
                                     "eval.every_steps=100", *settings], blocks=options.gradient_blocks)
    row = f"{batch}x2..{length}"
    if require("error" not in r, f"{row}: {r.get('error')}"):
        planned = judge_memory(row, r)
        print(f"{row}: 200 steps of {options.gradient_blocks} blocks, {r['low']:.1f} to {r['high']:.1f} ms, plan "
              f"{planned:.1f} MiB, driver {r['vram']:.1f}, grew by {r['growth']} bytes", flush=True)


def describe_disk(options, batch, length, settings):
    """Steps whose weights come from disk beside the time of their bytes read alone (rate_beside.py)."""
    row, output = f"{batch}x{length} from disk", options.folder / f"disk_{time.time_ns()}"
    model = model_folder(options, options.blocks)
    code, rates, steps = rate_beside.run_beside_readings(command_of(options, batch, length, settings, output), output,
                                                        options.steps, lambda: rate_beside.read_alone(options.reader, model))
    if not require(code == 0 and steps, f"{row}: exit {code}, {len(steps)} steps after the checksum of the weights"):
        return
    judge_tokens(row, batch, length, steps)
    print(f"{row}, read alone GB/s: {' '.join(f'{r / 1e9:.3f}' for r in rates.values())}", flush=True)
    for m in steps:
        print(f"{row}, step {m['step']}: {m['own_ms']:.0f} ms{' less a pause' if m['own_ms'] < m['step_ms'] else ''}, "
              f"{m['disk_bytes'] / 1e9:.2f} GB, {m['own_ms'] / m['read_ms']:.3f}", flush=True)
    own, alone = ([m[key] for m in steps] for key in ("own_ms", "read_ms"))
    print(f"{row}: median {statistics.median(own):.0f} ms; these steps are {sum(own) / sum(alone):.3f} of their bytes "
          f"alone", flush=True)


def adapter_after(options, batch, length, settings, blocks):
    """The checkpoint of a run, and its last loss; null where it fails."""
    output = options.folder / f"adapter_{time.time_ns()}"
    r = run(options, batch, length, ["schedule.name=constant", "schedule.warmup=0", *settings], output, blocks)
    if require("error" not in r, f"{batch}x{length} adapter: {r.get('error')}"):
        return output / "last", r["losses"][-1]
    return None, None


def gradients_of(options, batch, length, checkpoint, compute, blocks, device="cuda"):
    """Loss and gradients of the first rows."""
    from first_gradients import first_gradients
    from safetensors.torch import load_file
    after, loss = adapter_after(options, batch, length, [
        f"lora.init_from={checkpoint}", f"compute={compute}", "train.max_steps=1", "optimizer.clip=0",
        f"device={device}"], blocks)
    if after is None:
        return None, None
    shapes = {name: t.shape for name, t in load_file(checkpoint / "adapter_model.safetensors").items()}
    return loss, first_gradients(after, shapes, MODULES)


def run_peft(options, batch, length, checkpoint, blocks, *flags, steps=None, gradients=None):
    """One arm of bench_gpu_peft.py; null where it fails."""
    command = [sys.executable, str(pathlib.Path(__file__).with_name("bench_gpu_peft.py")),
               str(model_folder(options, blocks)), str(checkpoint), str(rows_file(options.folder, LLAMA_7B, batch, length)),
               str(batch), str(steps or options.steps), *flags]
    if gradients:
        command += ["--gradients", str(gradients)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return json.loads(result.stdout.splitlines()[-1])
    require(False, f"{batch}x{length} PEFT {' '.join(flags)}: {last_line(result.stderr)}")
    return None


def judge_gradients(row, losses, differences):
    """`differences`: of each pair, {tensor: norm of the difference over the norm of the second}. Not a number fails."""
    for name, loss in losses.items():
        print(f"{row} {name}: loss {loss}", flush=True)
        require(loss is not None and math.isfinite(loss), f"{row} {name}: a loss of {loss}")
    for (one, other), errors in differences.items():
        values = sorted(errors.values(), key=lambda e: (math.isnan(e), e))
        print(f"{row} {one} against {other}: relative difference of {len(values)} gradients: median "
              f"{values[len(values) // 2]:.2e}, largest {values[-1]:.2e}", flush=True)
    own = differences.get(("PEFT bf16", "PEFT f32"), {})
    for one, other in (("lema f32", "PEFT f32"), ("lema f32", "CPU f32"), ("lema bf16", "PEFT f32")):
        errors, is_f32 = differences.get((one, other)), one == "lema f32"
        if not require(errors and (is_f32 or own), f"{row} {one} against {other}: gradients of an arm are missing"):
            continue
        mine, theirs = losses[one], losses[other]
        if is_f32:
            require(abs(mine - theirs) <= F32_LOSS_BOUND * abs(theirs), f"{row} f32: loss {mine}, {other}'s {theirs}")
        bounds = {name: F32_BOUND if is_f32 else BF16_BOUND * own[name] for name in errors}
        wrong = [name for name in errors if not errors[name] <= bounds[name]]
        for name in wrong[:4]:
            require(False, f"{row} {one} against {other}: gradient of {name} differs by {errors[name]:.2e}, bound "
                           f"{bounds[name]:.2e}; {len(wrong)} in all")


def check_gradients(options, row):
    """lema and PEFT, each in f32 and in bf16, and lema on the CPU, from one adapter: which is how far from which."""
    from safetensors.torch import load_file
    batch, length = map(int, row.split("x"))
    blocks = options.gradient_blocks
    checkpoint, _ = adapter_after(options, batch, length, ["train.max_steps=4", "optimizer.lr=1e-3"], blocks)
    if checkpoint is None:
        return
    losses, gradients = {}, {}
    loss, mine = gradients_of(options, batch, length, checkpoint, "f32", blocks, "cpu")
    if mine:
        losses["CPU f32"], gradients["CPU f32"] = loss, mine
    for compute in ("f32", "bf16"):
        loss, mine = gradients_of(options, batch, length, checkpoint, compute, blocks)
        if mine:
            losses["lema " + compute], gradients["lema " + compute] = loss, mine
        theirs = options.folder / f"gradients_{compute}.safetensors"
        r = run_peft(options, batch, length, checkpoint, blocks, "--checkpointing", *["--float32"] * (compute == "f32"),
                     steps=1, gradients=theirs)
        if r:
            losses["PEFT " + compute], gradients["PEFT " + compute] = r["losses"][0], load_file(theirs)
    differences = {}
    for one, other in (("lema f32", "PEFT f32"), ("lema bf16", "PEFT f32"), ("PEFT bf16", "PEFT f32"),
                       ("lema bf16", "PEFT bf16"), ("lema f32", "CPU f32")):
        if one not in gradients or other not in gradients:
            continue
        mine, theirs = gradients[one], gradients[other]
        if require(mine.keys() == theirs.keys(), f"other tensors: {sorted(mine.keys() ^ theirs.keys())[:4]}"):
            differences[one, other] = {n: ((mine[n] - theirs[n]).norm() / theirs[n].norm()).item() for n in mine}
    judge_gradients(row, losses, differences)


def time_peft(options, row):
    batch, length = map(int, row.split("x"))
    checkpoint, _ = adapter_after(options, batch, length, ["train.max_steps=4", "optimizer.lr=1e-3"], options.blocks)
    for arm in options.arms if checkpoint else []:
        flags = ARMS[arm]
        r = run_peft(options, batch, length, checkpoint, options.blocks, *flags)
        if r:
            timed = r["ms"][2:]
            print(f"{batch}x{length} PEFT {' '.join(flags)}: median {statistics.median(timed):.1f} ms, "
                  f"{min(timed):.1f} to {max(timed):.1f}, {r['gib']:.2f} GiB; first loss {r['losses'][0]:.6f}",
                  flush=True)


def activations_of(options, plan):
    """The setting that keeps, recomputes and offloads what this plan does; null where none does."""
    if 0 < plan["kept_blocks"] < options.blocks:
        return None
    if plan["offload_boundaries"]:
        return "offload"
    return "keep" if plan["kept_blocks"] == options.blocks else "recompute"


def time_row(options, row, budget):
    """The row in every placement. Those after the streamed one are as it was, so there is none where that fails."""
    batch, length = map(int, row.split("x"))
    streamed = losses = None
    for placement in options.placements:
        settings = [f"memory.residency={placement}"]
        if placement == "stream":
            settings = [f"memory.vram={budget}"] if budget else settings
        elif "stream" in options.placements:
            if not require(streamed, f"{row} {placement}: not run, for the streamed run failed"):
                continue
            if placement == "half":  # what the streamed run took, and half of the blocks
                half = options.blocks // 2 * block_bytes(LLAMA_7B)
                settings = [f"memory.vram={streamed['device_bytes'] + half}"]
            activations = activations_of(options, streamed)
            if not require(activations, f"{row} {placement}: not run, for the streamed run keeps some blocks' activations"):
                continue
            settings.append(f"memory.activations={activations}")
        r = run(options, batch, length, settings)
        if not require("error" not in r, f"{row} {placement}: {r.get('error')}"):
            continue
        if placement == "stream":
            streamed = r["plan"]
        judge_tokens(f"{row} {placement}", batch, length, r["steps"])
        there, half, every = resident_blocks(r["plan"], options.blocks), options.blocks // 2, options.blocks
        # The streamed run's own come on top of the half.
        least, most = {"stream": (0, every), "half": (half, 3 * half // 2), "resident": (every, every)}[placement]
        require(least <= there <= most, f"{row} {placement}: {there} of {every} blocks are resident")
        planned, process = judge_memory(f"{row} {placement}", r), r["process"]
        ratio = r["vram"] / planned
        print(f"{row:8} {placement:9} {r['ms']:9.1f} {r['low']:8.1f} {r['high']:8.1f} "
              f"{1000 * batch * length / r['ms']:7.0f} {planned:9.1f} {r['vram']:9.1f} {r['peak'] - r['vram']:5.0f} "
              f"{ratio:6.3f} {r['growth']:6} {r['h2d']:7.2f} {r['disk']:7.2f} "
              f"{r['plan']['pinned_bytes'] / 2**20:8.1f} {r['plan']['host_bytes'] / 2**20:7.1f} "
              f"{process['RssAnon'] / 2**20:8.1f} {process['VmHWM'] / 2**20:8.1f}  {r['losses'][-1]!r}", flush=True)
        finite = all(loss is not None and math.isfinite(loss) for loss in r["losses"])
        require(finite, f"{row} {placement}: losses {r['losses']}")
        losses = losses or r["losses"]
        require(r["losses"] == losses, f"{row} {placement}: losses {r['losses']}, elsewhere {losses}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lema", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="*", default=["1x512", "8x512", "4x2048", "8x2048"])
    parser.add_argument("--placements", nargs="*", default=["stream", "half", "resident"],
                        choices=["stream", "half", "resident"])
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=7, help="3 at least")
    parser.add_argument("--vram", nargs="*", default=[], help="budgets of the streamed runs, e.g. 1x512=2GiB")
    parser.add_argument("--gradients", nargs="*", default=["1x512"], metavar="ROW",
                        help="rows whose gradients are compared")
    parser.add_argument("--gradient-blocks", type=int, default=4, help="of the model that is compared")
    parser.add_argument("--no-gradients", action="store_true", help="compare none, to spare time")
    parser.add_argument("--bus", nargs="*", default=[], metavar="ROW", help="rows whose copies are looked at")
    parser.add_argument("--disk", nargs="*", default=[], metavar="ROW", help="rows whose reads are looked at")
    parser.add_argument("--mixed", nargs="*", default=[], metavar="ROW",
                        help="most tokens of rows of every length, of the model of --gradient-blocks")
    parser.add_argument("--reader", help="build/tests/bench_disk, for --disk")
    parser.add_argument("--ram", default="4GB", help="memory.ram of --disk")
    parser.add_argument("--peft", nargs="*", default=[], metavar="ROW", help="rows that PEFT is timed with")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="of PEFT")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of every run")
    options = parser.parse_args()
    budgets = dict(budget.split("=") for budget in options.vram)
    if options.bus and options.blocks != LLAMA_7B.blocks:
        parser.error(f"--bus: 26 GB are two passes over {LLAMA_7B.blocks} blocks")
    if options.disk and not pathlib.Path(options.reader or "").is_file():
        parser.error("--reader: no such program; it is build/tests/bench_disk")
    for row in options.bus + options.disk:
        if row not in budgets:
            parser.error(f"--bus or --disk {row}: --vram has no budget for it")
    if options.steps < 3:
        parser.error("--steps: at least 3, of which the first two are not timed")
    if "half" in options.placements and options.placements[0] != "stream":
        parser.error("--placements half: is half of the streamed run, which must come first")
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.no_gradients:
        print("gradients: NOT CHECKED (--no-gradients)", flush=True)
    else:
        write_blocks(options, options.gradient_blocks)
        for row in options.gradients:
            check_gradients(options, row)
    for row in options.mixed:
        write_blocks(options, options.gradient_blocks)
        check_mixed(options, *map(int, row.split("x")), ["memory.residency=stream"])
    if options.rows or options.bus or options.disk or options.peft:
        write_blocks(options, options.blocks)
    if options.rows:
        print(f"pinned copies: {copy_rate() / 1e9:.2f} GB/s", flush=True)
        print(f"{'row':8} {'weights':9} {'median ms':>9} {'low':>8} {'high':>8} {'tok/s':>7} {'plan MiB':>9} "
              f"{'driver':>9} {'base':>5} {'ratio':>6} {'growth':>6} {'H2D GB':>7} {'disk GB':>7} {'pinned':>8} "
              f"{'host':>7} {'RssAnon':>8} {'VmHWM':>8}  last loss", flush=True)
    for row in options.rows:
        time_row(options, row, budgets.get(row))
    for row in options.bus:
        describe_bus(options, *map(int, row.split("x")), [f"memory.vram={budgets[row]}"])
    for row in options.disk:
        settings = [f"memory.vram={budgets[row]}", f"memory.ram={options.ram}", "memory.disk=direct"]
        describe_disk(options, *map(int, row.split("x")), settings)
    for row in options.peft:
        time_peft(options, row)
    print(f"{len(failures)} failed" +
          ("; gradients were not checked (--no-gradients)" if options.no_gradients else ""), flush=True)
    for failure in failures:
        print(f"  {failure}", flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
