"""Runs of 60 steps in 24 configurations, each stopped by a signal at every fifth step and resumed each time, and each
resumed from every fifth step to the end: adapter, moments, state and log end byte-equal to the run that nothing
stopped. LEMA_RESUME_EVERY=1 stops at every step instead. On a GPU (LEMA_RUN_DEVICE=cuda): shapes of ON_A_GPU, of 63
steps, stopped at 20 of them."""
import json
import os
import pathlib
import re
import shutil
import tempfile
import unittest

from faulty_run import FAULTY, FaultCase
from tiny_run import ON_GPU, write_random_model, write_rows

STEPS, EVERY = (63, 3) if ON_GPU else (60, int(os.environ.get("LEMA_RESUME_EVERY", 5)))
# Of memory: blocks through two slots on the device; all blocks from disk in every pass.
RING = ["memory.residency=stream", "memory.slots=2"]
DISK = ["memory.residency=stream", "memory.ram=1GB"]
BEST = ["eval.every_steps=10", "checkpoint.every_steps=10"]
CONFIGS = {
    "plain": [],
    "rslora": ["lora.rslora=true", "lora.rank=3"],
    "dora": ["lora.dora=true"],
    "dora, dropout, threads": ["lora.dora=true", "lora.dropout=0.2", "threads=2"],
    "head in full": ["lora.modules_to_save=lm_head"],
    "embedding and head in full": ['lora.modules_to_save=["model.embed_tokens", "lm_head"]'],
    "adapters of the ends": ['lora.targets=["embed_tokens", "q_proj", "down_proj"]'],
    "LoRA+ and decay": ["lora.plus_ratio=4", "optimizer.weight_decay=0.1", "optimizer.clip=0.5"],
    "dropout": ["lora.dropout=0.3"],
    "accumulation": ["train.batch_size=6", "train.micro_batch_size=1"],
    "accumulation, packed": ["train.batch_size=6", "train.micro_batch_size=2", "lora.dropout=0.1"],
    "no packing": ["data.packing=false", "lora.dropout=0.1"],
    "file order": ["data.shuffle=false"],
    "two epochs": ["train.max_steps=0", "train.epochs=2", "train.batch_size=4", "lora.dropout=0.1"],
    "linear, warm-up": ["schedule.name=linear", "schedule.warmup=10"],
    "constant": ["schedule.name=constant", "schedule.warmup=0"],
    "wsd": ["schedule.name=wsd", "schedule.min_lr_ratio=0"],
    "ring": [*RING, "lora.dropout=0.1"],
    "ring, offloaded, threads": [*RING, "memory.activations=offload", "threads=2"],
    "disk, buffered": [*DISK, "memory.disk=buffered"],
    "disk, direct, recomputed": [*DISK, "memory.disk=direct", "memory.activations=recompute", "threads=2"],
    "in memory, kept": ["memory.disk=buffered", "memory.activations=keep", "lora.dropout=0.1"],
    "bf16, spikes skipped": ["compute=bf16", "guard.spike_zscore=1", "guard.max_skips=50"],
    "best kept": ["lora.dropout=0.1", *BEST],
}
# Resident, of the ring, from disk, its ends trained, accumulated, evaluated; in the types that a GPU computes in.
ON_A_GPU = {
    "dora, dropout, threads": ["compute=bf16"],
    "ring, offloaded, threads": ["compute=f16"],
    "disk, buffered": ["compute=bf16"],
    "embedding and head in full": ["compute=f16"],
    "accumulation, packed": ["compute=f32"],
    "best kept": ["compute=f16"],
}


class ResumeMatrix(FaultCase):
    def setUp(self):
        super().setUp()
        # On a disk: direct reads are of one.
        place = tempfile.TemporaryDirectory(prefix="lema_model_")
        self.addCleanup(place.cleanup)
        self.model = write_random_model(pathlib.Path(place.name), blocks=6 if ON_GPU else 3)  # more than its slots
        self.data = write_rows(self.folder / "rows.jsonl", count=120)
        self.json = self.config(
            model=str(self.model), threads=1, lora={"rank": 2}, train={"max_steps": STEPS, "batch_size": 3},
            data={"train": str(self.data), "format": "tokens", "cache": "off"},
            checkpoint={"every_steps": EVERY, "keep": 99})

    def settings(self, name):
        settings = [*CONFIGS[name], *(ON_A_GPU[name] if ON_GPU else [])]
        if ON_GPU and "memory.ram=1GB" in settings:  # holds them all: the least that a run needs
            refused = self.train(self.folder / "refused", *settings, "memory.ram=1")
            least = re.search(r"memory.ram is .* at least (\d+)", refused.log)
            self.assertTrue(least, refused.log)
            settings.append(f"memory.ram={least[1]}")
        if any(s.startswith("eval.") for s in settings):
            settings.append(f"data.eval={write_rows(self.folder / 'eval.jsonl', 5, 9)}")
        return settings

    def end(self, output):
        """All that a run leaves behind but when and where it ran."""
        checkpoint = output / f"checkpoint-{STEPS:06}"
        state = json.loads((checkpoint / "state.json").read_text())
        state.pop("run_id")
        log = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        kept = ("step", "epoch", "loss", "lr", "grad_norm", "loss_scale", "tokens", "eval_loss")
        return [{p.name: p.read_bytes() for p in checkpoint.iterdir() if p.suffix == ".safetensors"}, state,
                [{k: line[k] for k in kept if k in line} for line in log],
                os.readlink(output / "best") if (output / "best").is_symlink() else None]

    def stopped_again_and_again(self, output, settings):
        """Every life ends by SIGTERM while it writes its log of its EVERY-th step."""
        lives = 0
        while True:
            more = ["--resume"] if lives else []
            ended = self.train(output, *settings, binary=FAULTY, more=more, under=output / "metrics.jsonl",
                               fault=f"at={EVERY},do=TERM,of=write")
            lives += 1
            if ended.code != 75:
                break
            if "data.eval" not in " ".join(settings):  # whose losses are lines of that log too
                self.assertIn(f"stopped at step {lives * EVERY};", ended.log)
        self.assertEqual(ended.code, 0, ended.log)
        self.assertGreaterEqual(lives, STEPS // EVERY)

    def check(self, name):
        settings = self.settings(name)
        whole = self.folder / f"whole-{name}"
        ended = self.train(whole, *settings)
        self.assertEqual(ended.code, 0, f"{name}: {ended.log}")
        expected = self.end(whole)
        self.assertEqual(expected[1]["step"], STEPS, name)
        if DISK[0] in settings and any(s.startswith("memory.ram=") for s in settings):
            lines = (whole / "metrics.jsonl").read_text().splitlines()
            self.assertGreater(min(json.loads(line)["disk_bytes"] for line in lines), 0, f"{name}: nothing was read")
        chain = self.folder / f"chain-{name}"
        self.stopped_again_and_again(chain, settings)
        self.assertEqual(self.end(chain), expected, f"{name}: stopped again and again")
        resumed = 0
        for step in self.saved(whole)[:-1]:
            again = self.folder / f"again-{name}"
            later = [f"checkpoint-{s:06}" for s in self.saved(whole) if s > step]
            shutil.copytree(whole, again, symlinks=True, ignore=lambda _, names: set(names) & set(later))
            ended = self.train(again, *settings, *([] if "eval.every_steps=10" in settings else ["checkpoint.every_steps=0"]),
                               more=["--resume"])
            self.assertEqual(ended.code, 0, f"{name} from {step}: {ended.log}")
            self.assertRegex(ended.log, rf"resumed from .* at step {step}\n")
            self.assertEqual(self.end(again), expected, f"{name}: resumed at {step}")
            shutil.rmtree(again)
            resumed += 1
        for folder in (whole, chain):
            shutil.rmtree(folder)
        return resumed

    def test_every_configuration(self):
        self.assertEqual(len(CONFIGS), 24)
        counts = self.together(self.check, ON_A_GPU if ON_GPU else CONFIGS)
        print(f"{sum(counts)} runs resumed once, {len(counts)} resumed {STEPS // EVERY - 1} times each")


if __name__ == "__main__":
    unittest.main()
