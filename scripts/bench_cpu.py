"""lema against transformers + PEFT on this machine's CPU: a LoRA step at a fixed shape (f32, bf16), real lengths, decoding,
and the time from start to the first update. The arms of a comparison take turns, one process each, with the same threads;
figures are medians over the rounds, and ratios are the median of the ratios of each round. No speed of training is printed
before the gradients of both arms agreed.

    python3 scripts/bench_cpu.py --lema build/lema --model quickstart/model [--rows f32,bf16,lengths,decode] [--rounds 3]

Needs torch, transformers, peft and safetensors (tests/requirements.txt). MODEL is a folder that `lema convert` wrote."""
import argparse
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "support"))

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, LR = 16, 32, 2e-4
SHAPE_ROWS, SHAPE_TOKENS, SHAPE_STEPS = 4, 256, 6
LENGTH_STEPS = 10
REPLY_TOKENS = 64
GRADIENT_TOLERANCE = {"f32": 2e-4, "bf16": 0.1}  # relative, of the norm of all gradients' difference


# --- the PEFT arm: runs in a process of its own, prints one JSON object ------------------------------------------------

def import_torch(threads):
    import torch
    torch.set_num_threads(threads)
    return torch


def load_model(torch, job, with_adapter):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype={"f32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]])
    if with_adapter:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, job["adapter"], is_trainable=True)
    return model


def peft_train(job):
    torch = import_torch(job["threads"])
    model = load_model(torch, job, with_adapter=True)
    parameters = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=LR, weight_decay=0)
    rows = [json.loads(line) for line in open(job["data"])]
    model.train()
    steps, losses, first_update = [], [], None
    for step in range(job["steps"]):
        begin = time.perf_counter()
        batch = [rows[(step * job["batch"] + i) % len(rows)] for i in range(job["batch"])]
        longest = max(len(row["input_ids"]) for row in batch)
        pad = lambda key, filler: torch.tensor([row[key] + [filler] * (longest - len(row[key])) for row in batch])
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in batch])
        loss = model(input_ids=pad("input_ids", 0), attention_mask=mask, labels=pad("labels", -100)).loss
        optimizer.zero_grad()
        loss.backward()
        if step == 0 and job["gradients"]:
            from safetensors.torch import save_file
            save_file({n: p.grad.float().contiguous() for n, p in parameters.items()}, job["gradients"])
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        steps.append(time.perf_counter() - begin)
        if first_update is None:
            first_update = time.time()
    return {"step_s": steps, "loss": losses, "first_update": first_update}


def peft_decode(job):
    torch = import_torch(job["threads"])
    model = load_model(torch, job, with_adapter=False).eval()
    prompts = json.load(open(job["data"]))
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.no_grad():
        def run(count):
            begin = time.perf_counter()
            model.generate(ids, attention_mask=mask, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0)
            return time.perf_counter() - begin
        run(2)
        return {"decode_s": run(REPLY_TOKENS) - run(1)}


# --- both arms ----------------------------------------------------------------------------------------------------------

class Result:
    def __init__(self, values, peak_bytes):
        self.__dict__.update(values)
        self.peak_bytes = peak_bytes


# A child's peak is at least what its parent had when it started it, so a small process starts it.
LAUNCHER = """
import json, os, sys, time
report, command = int(sys.argv[1]), sys.argv[2:]
start = time.time()
_, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
os.write(report, json.dumps([start, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]).encode())
"""


def run_process(command, **options):
    """Wall clock at the start, the output, and the peak resident bytes of one child, mapped pages included."""
    command = [str(c) for c in command]
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-S", "-c", LAUNCHER, str(write), *command], stdout=subprocess.PIPE, text=True,
                               pass_fds=[write], **options)
    os.close(write)
    output = process.communicate()[0]
    with os.fdopen(read) as report:
        start, code, peak = json.loads(report.read())
    if code != 0:
        raise SystemExit(f"exit {code}: {' '.join(command)}")
    return start, output, peak


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.run_number = options, pathlib.Path(folder), 0
        self.adapter = self.folder / "adapter"

    def make_adapter(self):
        """One random adapter, B too, from which every arm starts."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(self.options.model, dtype=torch.float32)
        peft = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM"))
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.01)
        peft.save_pretrained(self.adapter)

    def peft(self, kind, dtype, data, **values):
        job = {"kind": kind, "model": str(self.options.model), "adapter": str(self.adapter), "dtype": dtype, "data": str(data),
               "threads": self.options.threads, "gradients": "", **values}
        start, output, peak = run_process([sys.executable, __file__, "--job", json.dumps(job)])
        result = Result(json.loads(output.splitlines()[-1]), peak)
        result.start = start
        return result

    def lema_train(self, dtype, data, batch, steps):
        self.run_number += 1
        run = self.folder / f"run{self.run_number}"
        config = {"model": str(self.options.model), "output_dir": str(run), "compute": dtype, "threads": self.options.threads,
                  "data": {"train": str(data), "format": "tokens", "shuffle": False},
                  "lora": {"rank": RANK, "alpha": ALPHA, "targets": TARGETS, "init_from": str(self.adapter)},
                  "optimizer": {"lr": LR}, "schedule": {"name": "constant", "warmup": 0},
                  "train": {"max_steps": steps, "batch_size": batch}, "memory": {"activations": "keep"}}
        path = self.folder / "run.json"
        path.write_text(json.dumps(config))
        start, _, peak = run_process([self.options.lema, "train", "--config", path], stderr=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        result = Result({"step_s": [line["step_ms"] / 1e3 for line in lines], "loss": [line["loss"] for line in lines]}, peak)
        result.run, result.start = run, start
        return result

    def check_gradients(self, dtype, data, batch):
        """The gradients of the first step of both arms, as one vector each."""
        from first_gradients import first_gradients
        from safetensors.torch import load_file
        import torch
        file = self.folder / "gradients.safetensors"
        peft = self.peft("train", dtype, data, batch=batch, steps=1, gradients=str(file))
        lema = self.lema_train(dtype, data, batch, 1)
        want = load_file(file)
        norm = torch.sqrt(sum((g.double() ** 2).sum() for g in want.values()))
        clip = min(1.0, 1.0 / float(norm))
        got = first_gradients(lema.run / "checkpoint-000001", {n: g.shape for n, g in want.items()}, TARGETS)
        reference = torch.cat([want[n].flatten() for n in got]) * clip
        error = float((torch.cat([g.flatten() for g in got.values()]) - reference).norm() / reference.norm())
        print(f"  gradients of all {len(got)} matrices, relative difference {error:.1e}; "
              f"loss {lema.loss[0]:.5f} and {peft.loss[0]:.5f}")
        if not error < GRADIENT_TOLERANCE[dtype]:
            raise SystemExit("the arms do not compute the same gradients: no figures")

    # --- the rows of the table ---------------------------------------------------------------------------------------

    def train_rounds(self, lema_dtype, peft_dtypes, data, batch, steps):
        """{arm: [result a round]}, the arms taking turns."""
        results = {}
        for _ in range(self.options.rounds):
            results.setdefault("lema " + lema_dtype, []).append(self.lema_train(lema_dtype, data, batch, steps))
            for dtype in peft_dtypes:
                results.setdefault("peft " + dtype, []).append(self.peft("train", dtype, data, batch=batch, steps=steps))
        return results

    def report_training(self, results, tokens):
        """`tokens`: mean of the steps but the first, as are their times."""
        lema_name = next(iter(results))
        steady = lambda r: statistics.mean(r.step_s[1:])
        first = lambda r: (r.first_update if hasattr(r, "first_update") else self.first_update(r)) - r.start
        for name, rounds in results.items():
            ratio = statistics.median(steady(r) / steady(l) for r, l in zip(rounds, results[lema_name]))
            peak = statistics.median(r.peak_bytes for r in rounds)
            share = statistics.median(l.peak_bytes / r.peak_bytes for r, l in zip(rounds, results[lema_name]))
            start = statistics.median(first(r) for r in rounds)
            start_ratio = statistics.median(first(r) / first(l) for r, l in zip(rounds, results[lema_name]))
            step = statistics.median(map(steady, rounds))
            print(f"  {name:10} step {1e3 * step:7.0f} ms  {tokens / step:6.0f} tok/s  lema is {ratio:5.2f}x   peak "
                  f"{peak / 2**20:6.0f} MiB (lema {share:4.2f}x)   first update after {start:6.2f} s (lema {start_ratio:4.1f}x)")

    @staticmethod
    def first_update(result):
        """When the first line of metrics was written: lema writes it after the update."""
        lines = (result.run / "metrics.jsonl").read_text().splitlines()
        return (result.run / "metrics.jsonl").stat().st_mtime - sum(json.loads(line)["step_ms"] for line in lines[1:]) / 1e3

    def fixed_shape(self, dtype):
        rng = random.Random(7)
        data = self.folder / "shape.jsonl"
        text = self.quickstart_rows()
        stream = [i for row in text for i in row["input_ids"]]
        rows = []
        for _ in range(SHAPE_ROWS * SHAPE_STEPS):
            at = rng.randrange(len(stream) - SHAPE_TOKENS)
            ids = stream[at:at + SHAPE_TOKENS]
            rows.append({"input_ids": ids, "labels": ids})
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{dtype}: LoRA step, {SHAPE_ROWS} x {SHAPE_TOKENS} tokens, rank {RANK} on all linear layers, no recomputation")
        self.check_gradients(dtype, data, SHAPE_ROWS)
        others = ["f32"] if dtype == "f32" else ["f32", "bf16"]
        self.report_training(self.train_rounds(dtype, others, data, SHAPE_ROWS, SHAPE_STEPS), SHAPE_ROWS * SHAPE_TOKENS)

    def quickstart_rows(self):
        """The rows of the quickstart as ids and labels, rendered by transformers for both arms."""
        from transformers import AutoTokenizer
        script = pathlib.Path(__file__).with_name("make_reply_dataset.py")
        subprocess.run([sys.executable, script, "--output", self.folder / "replies"], check=True, stdout=subprocess.DEVNULL)
        tokenizer = AutoTokenizer.from_pretrained(self.options.model)
        rows = []
        for line in open(self.folder / "replies" / "train.jsonl"):
            messages = json.loads(line)["messages"]
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
            rows.append({"input_ids": ids, "labels": [-100] * len(prompt) + ids[len(prompt):]})
        return rows

    def real_lengths(self):
        rows = self.quickstart_rows()
        data = self.folder / "lengths.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        batch = 8
        lengths = [[len(row["input_ids"]) for row in rows[i * batch:(i + 1) * batch]] for i in range(1, LENGTH_STEPS)]
        tokens = statistics.mean(map(sum, lengths))
        padded = statistics.mean(batch * max(step) for step in lengths)
        print(f"lengths: the quickstart's rows, {batch} a step: {tokens:.0f} tokens, {padded:.0f} with padding")
        for dtype in ("f32", "bf16"):
            self.check_gradients(dtype, data, batch)
        for dtype, others in (("f32", ["f32"]), ("bf16", ["f32", "bf16"])):
            results = self.train_rounds(dtype, others, data, batch, LENGTH_STEPS)
            self.report_training(results, tokens)

    def decode(self):
        for dtype in ("f32", "bf16"):
            for batch in (1, 16):
                self.decode_batch(dtype, batch)

    def decode_batch(self, dtype, batch):
        from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(self.options.model)
        questions = [json.loads(line)["messages"][:-1] for line in open(self.folder / "replies" / "train.jsonl")][:batch]
        prompts = [tokenizer.apply_chat_template(q, add_generation_prompt=True, return_dict=True)["input_ids"] for q in questions]
        prompt_file, match_file = self.folder / "prompts.json", self.folder / "match.jsonl"
        prompt_file.write_text(json.dumps(prompts))
        match_file.write_text("".join(json.dumps({"messages": q}) + "\n" for q in questions))
        ratios, speeds = [], []
        for _ in range(self.options.rounds):
            lema = self.lema_decode(dtype, match_file, batch)
            peft = self.peft("decode", dtype, prompt_file).decode_s
            count = (REPLY_TOKENS - 1) * batch
            speeds.append((lema, count / peft))
            ratios.append(lema / (count / peft))
        print(f"decode {dtype}, batch {batch:2}: lema {statistics.median(s[0] for s in speeds):6.1f} tok/s, transformers "
              f"{statistics.median(s[1] for s in speeds):6.1f} tok/s, lema is {statistics.median(ratios):.2f}x")

    def lema_decode(self, dtype, data, batch):
        """Tokens a second, prompts left out: the difference of a long and a short run."""
        def run(count):
            command = [self.options.lema, "eval", "--model", self.options.model, "--task", "match", "--data", data, "--pattern", "x",
                       "--batch", batch, "--max-new-tokens", count, "--compute", dtype, "--threads", self.options.threads, "--json"]
            begin = time.perf_counter()
            _, output, _ = run_process(command, stderr=subprocess.DEVNULL)
            return time.perf_counter() - begin, json.loads(output)["tokens"]
        (short_s, short_tokens), (long_s, long_tokens) = run(1), run(REPLY_TOKENS)
        return (long_tokens - short_tokens) / (long_s - short_s)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lema", default="build/lema", type=pathlib.Path)
    parser.add_argument("--model", default="quickstart/model", type=pathlib.Path)
    parser.add_argument("--rows", default="f32,bf16,lengths,decode")
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--threads", default=os.cpu_count(), type=int)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        print(json.dumps({"train": peft_train, "decode": peft_decode}[job["kind"]](job)))
        return
    with tempfile.TemporaryDirectory(prefix="lema_bench_") as folder:
        bench = Bench(options, folder)
        bench.make_adapter()
        bench.quickstart_rows()
        rows = {"f32": lambda: bench.fixed_shape("f32"), "bf16": lambda: bench.fixed_shape("bf16"),
                "lengths": bench.real_lengths, "decode": bench.decode}
        for name in options.rows.split(","):
            rows[name]()


if __name__ == "__main__":
    main()
