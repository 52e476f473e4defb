"""What a run folder holds after evaluations, interruptions, kills and resumed runs of all kinds: `best` and `last` point at
what they promise, nothing of another run is touched, no folder is a dead end. Standard library only."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import unittest

from tiny_folder import poison_token
from tiny_run import LEMA, ON_GPU, STEPS, RunCase, write_rows

FAST = {"max_steps": STEPS, "batch_size": 4, "micro_batch_size": 2}


def snapshot(folder):
    return {str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes()
            for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_symlink() or p.is_file()}


class FolderCase(RunCase):
    def metrics(self, run="run"):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]

    def checkpoints(self, run="run"):
        return sorted(p.name for p in (self.folder / run).glob("checkpoint-*") if p.name[11:].isdigit())

    def start(self, *arguments):
        process = subprocess.Popen([LEMA, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        return process

    def until(self, process, pattern):
        for line in process.stderr:
            if re.search(pattern, line):
                return
        self.fail(f"ended without {pattern}")


class Best(FolderCase):
    def test_best_is_the_saved_checkpoint_of_lowest_evaluation_loss(self):
        # A high rate: the loss on other rows rises soon, and its lowest lies between two checkpoints.
        rows = write_rows(self.folder / "other.jsonl", 7, seed=9)
        for run, keep, every in (("few", 2, 7), ("many", 9, 4)):
            self.lema("train", "--config", self.config(
                data={"train": str(self.data), "eval": str(rows), "format": "tokens"}, optimizer={"lr": 0.1},
                output_dir=str(self.folder / run), checkpoint={"every_steps": every, "keep": keep}, eval={"every_steps": 1}))
            losses = {m["step"]: m["eval_loss"] for m in self.metrics(run) if "eval_loss" in m}
            self.assertEqual(len(losses), STEPS)
            saved = [step for step in losses if step % every == 0 or step == STEPS]
            self.assertNotIn(min(losses, key=losses.get), saved)
            best = min(saved, key=losses.get)
            self.assertEqual(os.readlink(self.folder / run / "best"), f"checkpoint-{best:06}")
            self.assertIn(f"checkpoint-{best:06}", self.checkpoints(run))
            state = json.loads((self.folder / run / "last" / "state.json").read_text())
            self.assertEqual((state["best_step"], state["best_eval_loss"]), (best, losses[best]))

    def test_an_evaluation_loss_of_nan_is_a_numeric_failure(self):
        poison_token(self.model, 7)
        rows = self.folder / "poison.jsonl"
        rows.write_text('{"tokens": [1, 7, 3]}\n')
        self.data.write_text('{"tokens": [1, 2, 3]}\n')
        log = self.lema("train", "--config", self.config(
            data={"train": str(self.data), "eval": str(rows), "format": "tokens"}, eval={"every_steps": 7},
            checkpoint={"every_steps": 5}), code=5)
        self.assertRegex(log, "step 5: the evaluation loss is -?nan")


class Branches(FolderCase):
    def test_a_checkpoint_of_another_run_is_not_mixed_into_a_folder(self):
        self.lema("train", "--config", self.config())
        other = self.config("other.json", output_dir=str(self.folder / "other"), optimizer={"lr": 0.02})
        self.lema("train", "--config", other)
        before = snapshot(self.folder / "run")
        log = self.lema("train", "--config", other, "--set", f"output_dir={self.folder / 'run'}", "--resume",
                        self.folder / "other" / "checkpoint-000005", code=2)
        self.assertRegex(log, "run/checkpoint-000020: .*another run.*output_dir")
        self.assertEqual(snapshot(self.folder / "run"), before)

    def test_later_checkpoints_are_set_aside_and_none_that_is_saved_is_lost(self):
        config = self.config(checkpoint={"every_steps": 4, "keep": 9})
        self.lema("train", "--config", config)
        want = self.final("run")
        run = self.folder / "run"
        self.rewind("run", "cut", 16)
        shutil.copytree(run / "checkpoint-000016", self.folder / "kept")
        log = self.lema("train", "--config", config, "--set", "checkpoint.keep=2", "--set", "train.max_steps=20",
                        "--resume", run / "checkpoint-000004")
        self.assertRegex(log, "checkpoint-000016: .*set aside as checkpoint-000016.abandoned")
        self.assertEqual(self.final("run"), want)
        self.assertEqual(os.readlink(run / "last"), "checkpoint-000020")
        self.assertEqual(os.readlink(run / "best"), "checkpoint-000020")
        # The newest is the best, which rotation does not count.
        self.assertEqual(self.checkpoints(), ["checkpoint-000012", "checkpoint-000016", "checkpoint-000020"])
        self.assertEqual(snapshot(run / "checkpoint-000016.abandoned"), snapshot(self.folder / "kept"))
        # Once more: the names of the first time are taken.
        self.lema("train", "--config", config, "--resume", run / "checkpoint-000016")
        self.assertTrue((run / "checkpoint-000020.abandoned-2").is_dir())
        self.assertEqual(self.final("run"), want)

    def test_links_point_at_what_is_there_from_the_start_of_a_resumed_run(self):
        config = self.config(train={**FAST, "max_steps": 4000}, checkpoint={"every_steps": 5, "keep": 1000},
                             data={"train": str(self.data), "eval": str(write_rows(self.folder / "small.jsonl", 1)),
                                   "format": "tokens"})
        process = self.start("train", "--config", config)
        self.until(process, "step 17/")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        self.assertEqual(process.wait(), 75)
        process = self.start("train", "--config", config, "--set", "checkpoint.every_steps=0", "--resume",
                             self.folder / "run" / "checkpoint-000010")
        self.until(process, "step 11/")
        process.kill()
        process.wait()
        self.assertEqual(self.checkpoints(), ["checkpoint-000005", "checkpoint-000010"])
        self.assertEqual(os.readlink(self.folder / "run" / "last"), "checkpoint-000010")
        self.assertIn(os.readlink(self.folder / "run" / "best"), self.checkpoints())


class DeadEnds(FolderCase):
    def test_a_run_killed_before_its_first_checkpoint_starts_again(self):
        config = self.config(train={**FAST, "max_steps": 4000}, checkpoint={"every_steps": 3000})
        process = self.start("train", "--config", config)
        self.until(process, "step 3/")
        process.kill()
        process.wait()
        self.assertEqual(self.checkpoints(), [])
        self.assertIn("without --resume", self.lema("train", "--config", config, "--resume", code=3))
        self.lema("train", "--config", self.config())
        self.assertEqual([m["step"] for m in self.metrics() if "loss" in m], list(range(1, STEPS + 1)))

    def test_the_sound_lines_of_a_log_of_any_length_are_kept(self):
        config = self.config()
        self.lema("train", "--config", config)
        want = self.final("run")
        lines = (self.folder / "run" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        first = [line for line in lines if json.loads(line)["step"] <= 10]
        later = lines[len(first):]
        # Some 10,000 evaluations before, then what a crash may leave: nothing, later steps, a line that is cut, zeros,
        # an endless line, steps behind damage.
        long = b"".join(b'{"step":1,"eval_loss":%.4f}\n' % (1 + i / 1e4) for i in range(10000))
        self.assertGreater(len(long), 200000)
        for n, damage in enumerate((b"", b"".join(later), later[0][:50], bytes(5000), b'"' + b"x" * 200000 + b'"\n',
                                    b"]\n" + first[0])):
            run = f"again-{n}"
            self.rewind("run", run, 10)
            log = self.folder / run / "metrics.jsonl"
            log.write_bytes(long + b"".join(first) + damage)
            self.lema("train", "--config", self.config(output_dir=str(self.folder / run)), "--resume")
            found = log.read_bytes()
            self.assertTrue(found.startswith(long + b"".join(first)), f"damage {n}")
            log.write_bytes(found[len(long):])
            self.assertEqual(self.final(run), want, f"damage {n}")

    def test_damage_in_a_log_costs_no_line_behind_it(self):
        self.lema("train", "--config", self.config())
        want = self.final("run")
        lines = (self.folder / "run" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        for n, damage in enumerate((lines[3][:50] + b"\n", bytes(5000) + b"\n", b'"' + b"x" * 200000 + b'"\n', b"\n]\n",
                                    lines[0])):
            run = f"again-{n}"
            self.rewind("run", run, 10)
            log = self.folder / run / "metrics.jsonl"
            log.write_bytes(b"".join([*lines[:5], damage, *lines[5:]]))
            said = self.lema("train", "--config", self.config(output_dir=str(self.folder / run)), "--resume")
            self.assertRegex(said, r"metrics\.jsonl: lines that cannot be read: \d; kept")
            found = log.read_bytes()
            self.assertEqual(found.count(damage), 1 + (damage in lines), f"damage {n}")
            log.write_bytes(b"".join(lines[:5]) + found[len(b"".join(lines[:5]) + damage):])
            self.assertEqual(self.final(run), want, f"damage {n}")

    def test_a_checkpoint_may_be_a_link_to_one(self):
        config = self.config(data={"train": str(self.data), "format": "tokens"})
        self.lema("train", "--config", config)
        want, run, aside = self.final("run"), self.folder / "run", self.folder / "aside"
        shutil.rmtree(run / "checkpoint-000020")
        shutil.move(run / "checkpoint-000015", aside)
        (run / "checkpoint-000015").symlink_to(aside)
        before = snapshot(aside)
        log = self.lema("train", "--config", config, code=2)
        self.assertIn("holds a run already", log)
        log = self.lema("train", "--config", config, "--set", "checkpoint.keep=2", "--resume")
        self.assertRegex(log, "resumed from .*checkpoint-000015 at step 15")
        self.assertEqual(self.final("run"), want)
        # It counts for nothing beside two of the folder's own, and is not touched.
        self.assertEqual(self.checkpoints(), ["checkpoint-000010", "checkpoint-000015", "checkpoint-000020"])
        self.assertEqual(snapshot(aside), before)

    def test_a_name_that_is_taken_is_found_before_the_first_step(self):
        self.lema("train", "--config", self.config())
        self.rewind("run", "begun", 10)
        loop = self.folder / "loop"
        loop.symlink_to(loop)
        for run, more in (("begun", ["--resume"]), ("fresh", [])):
            config = self.config(output_dir=str(self.folder / run))
            path = self.folder / run / "checkpoint-000015"
            path.parent.mkdir(exist_ok=True)
            for take in (path.touch, lambda: path.symlink_to(self.folder / "none"), lambda: path.symlink_to(loop)):
                take()
                log = self.lema("train", "--config", config, *more, code=2)
                self.assertRegex(log.splitlines()[-1], "checkpoint-000015: is no folder, and where step 15 is to be saved")
                self.assertNotRegex(log, r"(?m)^step \d")
                path.unlink()
            # Of a step that is done, or will not be.
            (self.folder / run / "checkpoint-000021").touch()
            self.lema("train", "--config", config, *more)

    def test_a_stop_before_the_first_step_leaves_nothing(self):
        # The adapter's start and the checksum of the data take a while between the handlers and the first step.
        self.data.write_text("".join(json.dumps({"tokens": [1, 2, 3], "note": "x" * 500000}) + "\n" for _ in range(100)))
        process = self.start("train", "--config", self.config(lora={"rank": 4096}))
        catches = 1 << (signal.SIGINT - 1)
        status = pathlib.Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search("SigCgt:\t([0-9a-f]+)", status.read_text())
            if found and int(found[1], 16) & catches:
                break
            time.sleep(0.0005)
        process.send_signal(signal.SIGINT)
        log = process.stderr.read()
        self.assertEqual(process.wait(), 130, log)
        self.assertFalse((self.folder / "run").exists())

    def test_a_used_folder_is_refused_before_any_work(self):
        self.lema("train", "--config", self.config())
        log = self.lema("train", "--config", self.config(), code=2)
        self.assertEqual(log.count("\n"), 1, log)

    def test_no_run_writes_into_a_model(self):
        link, other = self.folder / "link", self.folder / "other"
        link.symlink_to(self.model)
        shutil.copytree(self.model, other)
        models = snapshot(self.model), snapshot(other)
        for output in (self.model, self.model / "run", f"{self.model}/", link, link / "a" / "b"):
            log = self.lema("train", "--config", self.config(output_dir=str(output)), code=2)
            self.assertIn("which is read; name a folder elsewhere", log)
            self.assertEqual(log.count("\n"), 1, log)
        log = self.lema("train", "--config", self.config(output_dir=str(other)), code=2)
        self.assertIn("other: holds a config.json", log)
        self.assertEqual((snapshot(self.model), snapshot(other)), models)
        self.assertEqual(sorted(p.name for p in self.model.iterdir()), sorted(models[0]))

    def test_a_finished_run_is_said_to_be_finished(self):
        self.lema("train", "--config", self.config())
        before = snapshot(self.folder / "run")
        log = self.lema("train", "--config", self.config(), "--resume")
        self.assertRegex(log, "all 20 steps are done.*checkpoint-000020")
        self.assertNotIn("last loss", log)
        after = snapshot(self.folder / "run")
        for name in ("train.log",):
            before.pop(name), after.pop(name)
        self.assertEqual(after, before)


class Interrupted(FolderCase):
    def test_ctrl_c_does_not_wait_for_an_evaluation(self):
        rows = write_rows(self.folder / "many.jsonl", 60000)
        config = self.config(data={"train": str(self.data), "eval": str(rows), "format": "tokens"},
                             eval={"every_steps": 1}, checkpoint={"every_steps": 0})
        process = self.start("train", "--config", config)
        self.until(process, "step 1/")
        process.send_signal(signal.SIGINT)
        log = process.stderr.read()
        self.assertEqual(process.wait(), 75, log)
        self.assertEqual(self.checkpoints(), ["checkpoint-000001"])
        self.assertNotIn("eval loss", log)
        self.assertEqual([m for m in self.metrics() if "eval_loss" in m], [])


class Identity(FolderCase):
    def test_the_keys_that_differ_are_named(self):
        self.lema("train", "--config", self.config())
        log = self.lema("train", "--config", self.config(), "--set", "optimizer.lr=0.02", "--set", "lora.alpha=8",
                        "--set", "log.every_steps=3", "--resume", code=2)
        self.assertIn("lora.alpha 32.0, now 8.0; optimizer.lr 0.01, now 0.02", log)
        self.assertNotIn("log.every_steps", log)

    def test_a_device_may_be_named_otherwise(self):
        self.lema("train", "--config", self.config(device="auto"))
        want = self.final("run")
        self.rewind("run", "again", 10)
        named = self.config(output_dir=str(self.folder / "again"), device="cuda" if ON_GPU else "cpu")
        self.lema("train", "--config", named, "--resume")
        self.assertEqual(self.final("again"), want)

    def test_files_may_lie_elsewhere_but_not_differ(self):
        start = self.config("start.json", output_dir=str(self.folder / "start"), train={**FAST, "max_steps": 1})
        self.lema("train", "--config", start)
        adapter = self.folder / "start" / "last"
        lora = {"rank": 2, "dropout": 0.1, "init_from": str(adapter)}
        self.lema("train", "--config", self.config(lora=lora))
        want = self.final("run")
        self.rewind("run", "moved", 10)
        moved = {name: self.folder / f"moved-{name}" for name in ("rows.jsonl", "eval.jsonl", "adapter", "model")}
        shutil.copy(self.data, moved["rows.jsonl"])
        shutil.copy(self.data, moved["eval.jsonl"])
        shutil.copytree(adapter.resolve(), moved["adapter"])
        shutil.copytree(self.model, moved["model"])
        config = self.config(model=str(moved["model"]), output_dir=str(self.folder / "moved"),
                             lora={**lora, "init_from": str(moved["adapter"])},
                             data={"train": str(moved["rows.jsonl"]), "eval": str(moved["eval.jsonl"]), "format": "tokens"})
        with moved["eval.jsonl"].open("a") as rows:
            rows.write('{"tokens": [1, 2, 3]}\n')
        self.assertRegex(self.lema("train", "--config", config, "--resume", code=2), "another config: data.eval .*, now")
        shutil.copy(self.data, moved["eval.jsonl"])
        self.lema("train", "--config", config, "--resume")
        found = self.final("moved")
        # The adapter's config names the base model's folder.
        self.assertEqual(found[:2] + found[3:], want[:2] + want[3:])


if __name__ == "__main__":
    unittest.main()
