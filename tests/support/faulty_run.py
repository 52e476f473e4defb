"""Tiny training runs of lema_faulty, the binary whose file system fails on request
(failing_system_calls.cpp), and what must hold after any fault. Base of the tests under tests/fault.
Standard library only."""
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess

from tiny_run import LEMA, RunCase

FAULTY = os.environ["LEMA_FAULTY"]
Ended = collections.namedtuple("Ended", "code log")
PART, PARTS = map(int, os.environ.get("LEMA_FAULT_PART", "0/1").split("/"))  # 0/3, 1/3, 2/3: of every test's cases
STEPS, EVERY = 6, 2
MUTATING = {"create", "write", "fsync", "rename", "rename_new", "exchange", "symlink", "unlink", "mkdir", "rmdir"}
BYTES = ("adapter_model.safetensors", "state.safetensors")  # of a checkpoint: what training computes


class FaultCase(RunCase):
    """Every run is of one config; `self.whole` is the folder of the run that nothing disturbed. In memory where that
    can be: a run is some thirty syncs, which take a disk six times what the rest takes."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    ranks = 2

    def setUp(self):
        super().setUp()
        self.json = self.config(
            data={"train": str(self.data), "format": "tokens", "cache": "off"}, threads=1, lora={"rank": self.ranks},
            train={"max_steps": STEPS, "batch_size": 4}, checkpoint={"every_steps": EVERY, "keep": 2})
        self.whole = self.folder / "whole"
        self.assertEqual(self.train(self.whole, "checkpoint.keep=9").code, 0)

    def train(self, output, *settings, binary=LEMA, more=(), wait=600, **fault):
        """Runs to its end; fault: LEMA_FAULT, ... by their names in small letters without the front."""
        process = self.start_run(output, *settings, binary=binary, more=more, **fault)
        log = process.communicate(timeout=wait)[1]
        return Ended(process.returncode, log)

    def start_run(self, output, *settings, binary=FAULTY, more=(), **fault):
        arguments = [x for s in (f"output_dir={output}", *settings) for x in ("--set", s)]
        return self.start([binary, "train", "--config", self.json, *arguments, *more], **fault)

    def start(self, command, **fault):
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")}
        for name, value in fault.items():
            environment["LEMA_FAULT" if name == "fault" else f"LEMA_FAULT_{name.upper()}"] = str(value)
        return subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)

    def calls(self, *settings, under=None, more=(), prepare=None):
        """[(function, path)] of a run that nothing disturbs; `prepare` makes its folder first."""
        log, output = self.folder / "calls.log", self.folder / "counted"
        if prepare:
            prepare(output)
        ended = self.train(output, *settings, binary=FAULTY, more=more, log=log, under=under or "")
        self.assertEqual(ended.code, 0, ended.log)
        lines = [line.split(" ", 2)[1:] for line in log.read_text().splitlines()]
        log.unlink()
        shutil.rmtree(output)
        return [tuple(line) for line in lines]

    def saved(self, output):
        """Steps whose checkpoints are in the folder under their own names, ascending."""
        names = [p.name for p in pathlib.Path(output).glob("checkpoint-*")]
        return sorted(int(n[11:]) for n in names if n[11:].isdigit())

    def is_whole(self, output, step):
        """Whether a checkpoint has the bytes that it has in the undisturbed run."""
        mine, whole = (pathlib.Path(f) / f"checkpoint-{step:06}" for f in (output, self.whole))
        return all((mine / n).is_file() and (mine / n).read_bytes() == (whole / n).read_bytes() for n in BYTES)

    def acknowledged(self, log):
        """The last step that a run said it saved; 0 for none."""
        return max([0, *map(int, re.findall(r"^saved .*checkpoint-(\d+)$", log, re.M))])

    def check_folder(self, output, log, what, *settings):
        """After any fault: the last save that was reported is there and whole, and a resumed run of these settings ends
        like the undisturbed one; where nothing was reported a run starts again."""
        last = self.acknowledged(log)
        if last:
            self.assertTrue(self.is_whole(output, last), f"{what}: the save of step {last} is lost")
        has_one = any((p / "manifest.json").exists() for p in pathlib.Path(output).glob("checkpoint-*"))
        ended = self.train(output, *settings, more=["--resume"] if has_one else [])
        self.assertEqual(ended.code, 0, f"{what}: {ended.log}")
        if last:
            self.assertGreaterEqual(int(re.search(r"resumed from .* at step (\d+)", ended.log)[1]), last, what)
        self.check_end(output, what)

    def check_end(self, output, what):
        """As an undisturbed run leaves its folder."""
        self.assertTrue(self.is_whole(output, STEPS), f"{what}: another end")
        self.assertEqual(os.readlink(output / "last"), f"checkpoint-{STEPS:06}", what)
        strangers = [p.name for p in output.iterdir() if p.name.startswith(".") or "tmp" in p.name]
        self.assertEqual(strangers, [], what)
        log = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in log if "loss" in line], list(range(1, STEPS + 1)), what)

    def in_one_part(self):
        """Of the processes that share a file's cases the first alone runs this test."""
        if PART:
            self.skipTest(f"is of part 1 of {PARTS}")

    def together(self, work, cases, each=1):
        """What work(case) returns for all of this process's part, in their order; `each` at a time for every processor
        that it may use (taskset says fewer). Failures are raised at the end, the first of them whole."""
        cases = list(cases)[PART::PARTS]
        with concurrent.futures.ThreadPoolExecutor(each * len(os.sched_getaffinity(0))) as pool:
            futures = [pool.submit(work, case) for case in cases]
        failures = [future.exception() for future in futures if future.exception()]
        if failures:
            print(f"{len(failures)} of {len(cases)} cases failed:", *(str(f)[:400] for f in failures[1:9]), sep="\n- ")
            raise failures[0]
        return [future.result() for future in futures]
