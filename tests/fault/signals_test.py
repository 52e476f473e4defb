"""SIGINT, SIGTERM, SIGHUP, SIGUSR1, two signals and the file `stop`, at every phase of a run: the documented exit code, a save
that is whole, and a resumed run that ends as if nothing had been. And commands that write something. Standard library only."""
import fcntl
import json
import os
import pathlib
import shutil
import signal
import time
import unittest

import tiny_folder
from faulty_run import FAULTY, MUTATING, STEPS, FaultCase
from tiny_run import LEMA, write_rows


class Phases(FaultCase):
    def phases(self, calls):
        """{phase: the number of its first call}, by what a run does first in it."""
        def first(function, part, after=0):
            return next(n for n, (f, path) in enumerate(calls, 1) if n > after and f == function and part in path)

        found = {"lock": first("flock", ".lock"), "model": first("open", "model.safetensors"),
                 "data": first("open", "rows.jsonl"), "run.json": first("create", "run.json")}
        found["first step"] = first("write", "metrics.jsonl")
        found["staging"] = first("mkdir", ".checkpoint-000004")
        found["writing"] = first("write", "state.safetensors", found["staging"])
        found["manifest"] = first("create", "manifest.json", found["staging"])
        found["renaming"] = first("rename_new", "checkpoint-000004")
        found["reading back"] = first("pread", "checkpoint-000004/adapter_model", found["renaming"])
        found["pruning"] = first("rename_new", ".trash", found["renaming"])
        found["last step"] = first("write", "metrics.jsonl", first("fsync", "checkpoint-000004.tmp")) + 1
        return found

    def test_every_signal_at_every_phase(self):
        calls = self.calls("checkpoint.keep=1", "checkpoint.every_steps=1", under=self.folder)
        phases = self.phases(calls)
        before = [p for p in phases if phases[p] < phases["run.json"]]
        self.assertEqual(len(phases), 12)

        def work(case):
            phase, name = case
            what = f"{name} at {phase}"
            output = self.folder / f"run-{phase.replace(' ', '-')}-{name}"
            ended = self.train(output, "checkpoint.keep=1", "checkpoint.every_steps=1", binary=FAULTY, under=self.folder,
                               fault=f"at={phases[phase]},do={name}")
            if name == "USR1":
                self.assertEqual(ended.code, 0, f"{what}: {ended.log}")
                self.assertTrue(self.is_whole(output, STEPS), what)
                return
            if phase in before:
                self.assertEqual(ended.code, 130, f"{what}: {ended.log}")
                self.assertFalse(output.exists(), what)
                return
            self.assertEqual(ended.code, 75, f"{what}: {ended.log}")
            last = self.acknowledged(ended.log)
            self.assertTrue(self.same_step(output, last), what)
            resumed = self.train(output, "checkpoint.keep=1", "checkpoint.every_steps=1", more=["--resume"])
            self.assertEqual(resumed.code, 0, resumed.log)
            self.assertTrue(self.is_whole(output, STEPS), what)

        self.together(work, [(phase, name) for phase in phases for name in ("INT", "TERM", "HUP", "USR1")])

    def same_step(self, output, step):
        state = json.loads((output / f"checkpoint-{step:06}" / "state.json").read_text())
        return state["step"] == step and os.readlink(output / "last") == f"checkpoint-{step:06}"

    def evaluations(self, output):
        log = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["eval_loss"]) for line in log if "eval_loss" in line]

    def state(self, output):
        state = json.loads((output / "last" / "state.json").read_text())
        return {key: state[key] for key in state if key != "run_id"}

    def test_a_stop_at_every_evaluation(self):
        """Each is obeyed, the last step's too; what is owed then is done by the resumed run, once."""
        settings = [f"data.eval={write_rows(self.folder / 'other.jsonl', 7, seed=9)}", "eval.every_steps=2",
                    "checkpoint.keep=9", "optimizer.lr=0.1"]
        shutil.rmtree(self.whole)
        self.assertEqual(self.train(self.whole, *settings).code, 0)
        wanted = self.evaluations(self.whole)
        self.assertEqual([step for step, _ in wanted], [2, 4, 6])
        calls = self.calls(*settings, under=self.folder / "counted")
        writes = [n for n, (function, path) in enumerate(calls, 1) if function == "write" and "metrics" in path]
        self.assertEqual(len(writes), STEPS + len(wanted))
        # 1, 2, the evaluation of 2, 3, 4, ...: a stop while a step is told comes before its evaluation.
        before, told = ({step: writes[step + step // 2 + k] for step in (2, 4, 6)} for k in (-2, -1))

        def work(case):
            step, phases, name = case
            evaluated, what = phases is told, f"{name} at step {step}, call {phases[step]}"
            output = self.folder / f"run-{phases[step]}-{name}"
            ended = self.train(output, *settings, binary=FAULTY, under=output, fault=f"at={phases[step]},do={name}")
            self.assertEqual(ended.code, 0 if evaluated and step == STEPS else 75, f"{what}: {ended.log}")
            self.assertTrue(self.same_step(output, step), what)
            self.assertEqual(self.evaluations(output), [e for e in wanted if e[0] < step + evaluated], what)
            for _ in range(2):
                ended = self.train(output, *settings, more=["--resume"])
                self.assertEqual(ended.code, 0, f"{what}: {ended.log}")
                self.check_end(output, what)
                self.assertEqual(self.evaluations(output), wanted, what)
                self.assertEqual(self.state(output), self.state(self.whole), what)
                self.assertEqual(os.readlink(output / "best"), os.readlink(self.whole / "best"), what)

        self.together(work, [(step, phases, name) for step in (2, 4, 6) for phases in (before, told)
                             for name in ("INT", "TERM", "HUP")])

    def test_the_file_stop_does_not_wait_for_the_last_evaluation(self):
        output = self.folder / "run"
        settings = [f"data.eval={write_rows(self.folder / 'many.jsonl', 30000)}", "train.max_steps=3",
                    "checkpoint.every_steps=0"]
        process = self.start_run(output, *settings, binary=LEMA)
        self.wait_for_step_3(process)
        (output / "stop").touch()
        log = process.stderr.read()
        self.assertEqual(process.wait(), 75, log)
        self.assertEqual((self.acknowledged(log), self.evaluations(output)), (3, []))
        self.assertFalse((output / "stop").exists())
        self.assertEqual(self.train(output, *settings, more=["--resume"]).code, 0)
        self.assertEqual([step for step, _ in self.evaluations(output)], [3])

    def test_a_second_signal_ends_at_once_and_harms_nothing(self):
        phases = self.phases(self.calls("checkpoint.every_steps=1", "checkpoint.keep=1", under=self.folder))

        def work(phase):
            output = self.folder / f"twice-{phase.replace(' ', '-')}"
            # Once at the phase, and again at each later call of that kind: while the step is being saved.
            ended = self.train(output, "checkpoint.every_steps=1", "checkpoint.keep=1", binary=FAULTY, under=self.folder,
                               fault=f"at={phases[phase]},do=INT,sticky")
            self.assertIn(ended.code, (-signal.SIGINT, 75), f"{phase}: {ended.log}")
            self.check_resumed(output, ended.log, phase)

        self.together(work, ["first step", "staging", "writing", "manifest", "renaming", "reading back", "pruning"])

    def check_resumed(self, output, log, what):
        last = self.acknowledged(log)
        has_one = any((p / "manifest.json").exists() for p in output.glob("checkpoint-*"))
        ended = self.train(output, more=["--resume"] if has_one else [])
        self.assertEqual(ended.code, 0, f"{what}: {ended.log}")
        self.assertTrue(self.is_whole(output, STEPS), what)
        if last:
            self.assertIn("resumed from", ended.log, what)

    def wait_for_step_3(self, process):
        self.addCleanup(process.stderr.close)
        for line in process.stderr:
            if "step 3/" in line:
                return

    def test_the_file_stop_ends_a_run_like_a_signal(self):
        output = self.folder / "run"
        process = self.start_run(output, "train.max_steps=100000", "checkpoint.every_steps=0", binary=LEMA)
        self.wait_for_step_3(process)
        (output / "stop").touch()
        log = process.stderr.read()
        self.assertEqual(process.wait(), 75, log)
        self.assertFalse((output / "stop").exists())
        self.assertTrue(self.acknowledged(log))
        # What cannot be removed stops a run too, and keeps the next from beginning.
        shutil.rmtree(output)
        process = self.start_run(output, "train.max_steps=100000", "checkpoint.every_steps=0", binary=LEMA)
        self.wait_for_step_3(process)
        (output / "stop").mkdir()
        log = process.stderr.read()
        self.assertEqual(process.wait(), 75, log)
        self.assertTrue(self.acknowledged(log))
        self.assertIn("stop: cannot remove: Is a directory", log)
        self.assertEqual(self.train(output, more=["--resume"]).code, 74)
        # One that was made too late is of the run before.
        shutil.rmtree(output)
        output.mkdir()
        (output / "stop").touch()
        self.assertEqual(self.train(output).code, 0)
        self.assertFalse((output / "stop").exists())

    def test_usr1_saves_and_goes_on(self):
        output = self.folder / "run"
        process = self.start_run(output, "train.max_steps=100000", "checkpoint.every_steps=0", "checkpoint.keep=9",
                                 binary=LEMA)
        self.addCleanup(process.stderr.close)
        saved = 0
        for line in process.stderr:
            if "step 3/" in line or ("step 50" in line and saved == 1):
                process.send_signal(signal.SIGUSR1)
            if line.startswith("saved "):
                saved += 1
            if saved == 2:
                break
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read()
        self.assertEqual(process.wait(), 75, log)
        self.assertGreaterEqual(len(self.saved(output)), 2)

    def test_a_save_on_request_may_fail_and_that_of_a_stop_may_not(self):
        for name, code in (("USR1", 75), ("TERM", 74)):
            output = self.folder / f"run-{name}"
            process = self.start_run(output, "train.max_steps=100000", "checkpoint.every_steps=0",
                                     under=output / ".checkpoint", fault="at=1,do=ENOSPC")
            self.wait_for_step_3(process)
            process.send_signal(getattr(signal, f"SIG{name}"))
            if code == 75:
                for line in process.stderr:
                    if "is not saved" in line:
                        break
                self.assertRegex(line, r"No space left on device; the run goes on and saves step 100000$")
                process.send_signal(signal.SIGTERM)
            log = process.stderr.read()
            self.assertEqual(process.wait(), code, log)
            self.assertEqual(len(self.saved(output)), code == 75)

    def test_a_closed_terminal_says_so_twice(self):
        output = self.folder / "run"
        process = self.start_run(output, "train.max_steps=100000", "checkpoint.every_steps=0", binary=LEMA)
        self.wait_for_step_3(process)
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
        log = process.stderr.read()
        self.assertEqual(process.wait(), 75, log)
        self.assertTrue(self.acknowledged(log))

    def test_what_nohup_ignores_stays_ignored(self):
        output = self.folder / "run"
        process = self.start(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", LEMA, "train", "--config", self.json, "--set",
                              f"output_dir={output}", "--set", "train.max_steps=300", "--set", "checkpoint.every_steps=0"])
        self.wait_for_step_3(process)
        process.send_signal(signal.SIGHUP)
        log = process.stderr.read()
        self.assertEqual(process.wait(), 0, log)

    def test_the_start_of_a_program_is_a_phase_too(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            log = self.folder / f"calls-{number}.log"
            process = self.start([FAULTY, "inspect", self.whole], fault="at=1,do=slow", log=log)
            while not log.exists() and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(number)
            process.communicate()
            self.assertEqual(process.returncode, 130)


class Commands(FaultCase):
    def test_what_convert_and_merge_write_is_whole_or_not_there(self):
        adapter = self.whole / "checkpoint-000006"
        commands = {"convert": [FAULTY, "convert", self.model, self.folder / "out"],
                    "merge": [FAULTY, "merge", "--model", self.model, "--adapter", adapter, "--output", self.folder / "out"]}
        for name, command in commands.items():
            log = self.folder / "calls.log"
            self.start(command, log=log, under=self.folder / ".out").communicate()
            calls = [line.split(" ", 2)[1] for line in log.read_text().splitlines()]
            writing = [n for n, function in enumerate(calls, 1) if function in MUTATING]
            log.unlink()
            shutil.rmtree(self.folder / "out")
            for what, wanted in (("INT", (0, 130)), ("TERM", (0, 130)), ("ENOSPC", (74,)), ("kill", (-9,))):
                for n in writing[::max(1, len(writing) // 6)]:
                    process = self.start(command, fault=f"at={n},do={what}", under=self.folder / ".out")
                    message = process.communicate()[1]
                    self.assertIn(process.returncode, wanted, f"{name} {what} at {n}: {message}")
                    self.assertEqual((self.folder / "out").exists(), process.returncode == 0, f"{name} {what} at {n}")
                    left = [p.name for p in self.folder.iterdir() if p.name.startswith(".out")]
                    self.assertEqual(left, left if what == "kill" else [], f"{name} {what} at {n}")
                    for path in [self.folder / "out", *(self.folder / x for x in left)]:
                        shutil.rmtree(path, ignore_errors=True)

    def test_what_a_killed_one_left_goes_when_it_is_tried_again(self):
        adapter = self.whole / "checkpoint-000006"
        commands = {"convert": [FAULTY, "convert", self.model, self.folder / "out"],
                    "merge": [FAULTY, "merge", "--model", self.model, "--adapter", adapter, "--output", self.folder / "out"]}
        for name, command in commands.items():
            process = self.start(command, fault="at=1,do=kill,of=rename_new")
            process.communicate()
            self.assertEqual(process.returncode, -9)
            left, = self.folder.glob(".out.tmp-*")
            # Of a live process, of another target, of someone else, and one that is held elsewhere under a dead number.
            number = left.name.split("-")[1]
            strangers = [f".out.tmp-{os.getpid()}-0badf00d", f".out2.tmp-{number}-0badf00d", f".out.tmp-{number}-copy",
                         ".out.trash", f".out.tmp-{number}-0badf00d"]
            for stranger in strangers:
                (self.folder / stranger).mkdir()
            held = os.open(self.folder / strangers[-1], os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
            process = self.start(command)
            log = process.communicate()[1]
            os.close(held)
            self.assertEqual(process.returncode, 0, log)
            self.assertIn(f"{left}: left by a process that was cut off; removed", log)
            there = {p.name for p in self.folder.iterdir() if p.name.startswith(".out")}
            self.assertEqual(there, set(strangers), name)
            for path in [self.folder / "out", *(self.folder / x for x in strangers)]:
                shutil.rmtree(path)


if __name__ == "__main__":
    unittest.main()
