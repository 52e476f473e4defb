"""Two runs on one folder, locks of the dead, checkpoints that were edited or are another run's, and model, data or config that
changed: each is refused within a second with a reason, or passed over with one, and nothing is lost. Standard library only."""
import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time
import unittest

from crc32c import crc32c
from faulty_run import STEPS, FaultCase
from process_memory import BOUNDED
from tiny_run import LEMA


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def edit(checkpoint, name, change):
    """Changes a file of a checkpoint and its entry in the manifest with it."""
    path = checkpoint / name
    path.write_bytes(change(path.read_bytes()))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": path.stat().st_size, "crc32c": f"{crc32c(path.read_bytes()):08x}"}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


class Locks(FaultCase):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"

    def refused(self, *settings, more=(), code=2, saying="in use by process"):
        start = time.monotonic()
        ended = self.train(self.run_folder, *settings, more=more)
        self.assertEqual(ended.code, code, ended.log)
        self.assertRegex(ended.log, saying)
        return time.monotonic() - start

    def test_a_second_run_is_refused_and_names_the_first(self):
        first = self.start_run(self.run_folder, "train.max_steps=100000", binary=LEMA)
        for line in first.stderr:
            if "step 3/" in line:
                break
        try:
            for more in ([], ["--resume"], ["--resume", self.whole / "checkpoint-000002"]):
                took = self.refused(more=more, saying=f"in use by process {first.pid} on {socket.gethostname()}")
                if BOUNDED:
                    self.assertLess(took, 1)
        finally:
            first.kill()
            first.communicate()
        # The lock of the dead is none.
        self.assertTrue((self.run_folder / ".lock").exists())
        for path in self.run_folder.glob("checkpoint-*"):
            shutil.rmtree(path)
        self.assertEqual(self.train(self.run_folder).code, 0)
        self.check_end(self.run_folder, "after a killed run")

    def test_a_run_that_only_loads_holds_the_folder_too(self):
        first = self.start_run(self.run_folder, fault="at=30,do=slow,sticky")
        while not (self.run_folder / ".lock").exists():
            time.sleep(0.01)
        try:
            self.refused()
        finally:
            first.kill()
            first.communicate()

    def test_any_leftover_lock_is_harmless(self):
        shutil.copytree(self.whole, self.run_folder, symlinks=True)
        shutil.rmtree(self.run_folder / f"checkpoint-{STEPS:06}")
        for text in (b"", b"process 1 on elsewhere\n", b"process 999999999 on here\n", b"\xff\x1b[2J" * 400):
            (self.run_folder / ".lock").write_bytes(text)
            ended = self.train(self.run_folder, more=["--resume"])
            self.assertEqual(ended.code, 0, ended.log)
            self.check_end(self.run_folder, text)
            shutil.rmtree(self.run_folder / f"checkpoint-{STEPS:06}")

    def test_a_lock_held_by_anyone_counts_whatever_it_says(self):
        self.run_folder.mkdir()
        for text, saying in ((b"", "in use by another process"), (b"x\x1b[2J\n", r"in use by x\\x1b\[2J"),
                             (b"y" * 5000, "in use by another process")):
            with open(self.run_folder / ".lock", "wb") as lock:
                lock.write(text)
                lock.flush()
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.refused(saying=saying)

    def test_what_dead_runs_left_goes_and_what_live_ones_write_stays(self):
        dead = subprocess.Popen(["true"])
        dead.wait()
        shutil.copytree(self.whole, self.run_folder, symlinks=True)
        shutil.rmtree(self.run_folder / f"checkpoint-{STEPS:06}")
        gone = [f".checkpoint-000006.tmp-{dead.pid}-0badf00d", ".checkpoint-000001.trash", f".last.tmp-{dead.pid}-00000000"]
        stay = [f".other.tmp-{os.getpid()}-0badf00d", ".notes", ".x.tmp-abc"]
        for name in gone + stay:
            (self.run_folder / name).mkdir()
            (self.run_folder / name / "file").write_text("x")
        ended = self.train(self.run_folder, more=["--resume"])
        self.assertEqual(ended.code, 0, ended.log)
        left = {p.name for p in self.run_folder.iterdir() if p.name.startswith(".")}
        self.assertEqual(left, set(stay))

    def test_nothing_is_left_where_a_run_never_began(self):
        self.refused("data.train=/none", code=3, saying="no such file|/none")
        self.assertFalse(self.run_folder.exists())


class Checkpoints(FaultCase):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"

    def resumed_past(self, spoil, reason):
        """The newest of the checkpoints of steps 2 and 4 is spoilt: the run goes on from the other one and says why."""
        shutil.rmtree(self.run_folder, ignore_errors=True)
        shutil.copytree(self.whole, self.run_folder, symlinks=True)
        shutil.rmtree(self.run_folder / f"checkpoint-{STEPS:06}")
        spoil(self.run_folder / "checkpoint-000004")
        inspected = self.start([LEMA, "inspect", "--json", self.run_folder / "checkpoint-000004"])
        inspected.communicate()
        self.assertEqual(inspected.returncode, 3, reason)
        ended = self.train(self.run_folder, more=["--resume"])
        self.assertEqual(ended.code, 0, ended.log)
        self.assertRegex(ended.log, f"checkpoint-000004: passed over: .*{reason}")
        self.assertIn("at step 2", ended.log)
        self.check_end(self.run_folder, reason)

    def test_a_damaged_one_is_passed_over_with_the_reason(self):
        def manifest(change):
            def spoil(checkpoint):
                path = checkpoint / "manifest.json"
                value = json.loads(path.read_text())
                change(value)
                path.write_text(json.dumps(value))
            return spoil

        for spoil, reason in (
                (lambda c: flip(c / "adapter_model.safetensors"), "adapter_model.safetensors has checksum"),
                (lambda c: flip(c / "state.json", 5), "state.json has checksum"),
                (lambda c: (c / "state.safetensors").unlink(), "state.safetensors is missing"),
                (lambda c: (c / "state.safetensors").write_bytes(b""), "state.safetensors has 0 bytes"),
                (lambda c: (c / "stranger").write_text("x"), "stranger is not in the manifest"),
                (lambda c: (c / "folder").mkdir(), "folder is not a regular file"),
                (lambda c: (c / "manifest.json").unlink(), "manifest.json: no such file"),
                (lambda c: (c / "manifest.json").write_text(""), "manifest.json"),
                (lambda c: (c / "manifest.json").write_bytes(bytes(300)), "manifest.json"),
                (manifest(lambda m: m.update(step=2)), "its manifest is of step 2"),
                (manifest(lambda m: m.update(format=9)), "format 9"),
                (manifest(lambda m: m["files"].pop("state.json")), "state.json is not in the manifest")):
            with self.subTest(reason):
                self.resumed_past(spoil, reason)

    def test_one_of_another_run_is_refused_by_name(self):
        other = self.folder / "other"
        self.train(other, "seed=7", "checkpoint.keep=9")
        shutil.copytree(self.whole, self.run_folder, symlinks=True)
        shutil.copytree(other / "checkpoint-000002", self.run_folder / "checkpoint-000003")
        edit(self.run_folder / "checkpoint-000003", "README.md", lambda text: text)
        ended = self.train(self.run_folder, more=["--resume"])
        self.assertEqual(ended.code, 2, ended.log)
        self.assertRegex(ended.log, "checkpoint-000003: is of another run")

    def test_two_sound_ones_are_kept_whatever_is_damaged(self):
        shutil.copytree(self.whole, self.run_folder, symlinks=True)
        shutil.rmtree(self.run_folder / f"checkpoint-{STEPS:06}")
        # Of 2, 4 and, later, 6: where 4 is damaged while the run goes on, 2 must stay.
        process = self.start_run(self.run_folder, more=["--resume"], fault="at=1,do=none")
        process.communicate()
        self.assertEqual(self.saved(self.run_folder), [4, 6])
        shutil.rmtree(self.run_folder)
        shutil.copytree(self.whole, self.run_folder, symlinks=True)
        for step in (4, 6):
            shutil.rmtree(self.run_folder / f"checkpoint-{step:06}")
        shutil.copytree(self.whole / "checkpoint-000004", self.folder / "spare")
        flip(self.run_folder / "checkpoint-000002" / "README.md")
        ended = self.train(self.run_folder, "checkpoint.every_steps=1", more=["--resume", self.folder / "spare"])
        self.assertEqual(ended.code, 0, ended.log)
        self.assertEqual(self.saved(self.run_folder), [5, 6])  # two sound ones, the damaged one is old

    def test_what_changed_is_named_and_can_be_accepted(self):
        model = self.model / "model.safetensors"
        cases = {
            "config": (["optimizer.lr=0.02"], lambda: None, "another config: optimizer.lr 0.01, now 0.02"),
            "data": ([], lambda: self.data.write_text(self.data.read_text() + '{"tokens": [1, 2, 3]}\n'), "data.train"),
            "model": ([], lambda: flip(model, -3), "another model: its weights"),
        }
        for name, (settings, change, saying) in cases.items():
            with self.subTest(name):
                keep = {path: path.read_bytes() for path in (model, self.data)}
                change()
                output = self.folder / f"changed-{name}"
                shutil.copytree(self.whole, output, symlinks=True)
                shutil.rmtree(output / f"checkpoint-{STEPS:06}")
                ended = self.train(output, *settings, more=["--resume"])
                self.assertEqual(ended.code, 2, ended.log)
                self.assertIn(saying, ended.log)
                self.assertIn(f"--accept-changed {name}", ended.log)
                accepted = self.train(output, *settings, more=["--resume", "--accept-changed", name])
                self.assertEqual(accepted.code, 0, accepted.log)
                self.assertIn("accepted", accepted.log)
                self.assertFalse(self.is_whole(output, STEPS), "the change has no effect")
                for path, data in keep.items():
                    path.write_bytes(data)

    def test_the_adapter_that_a_run_began_with_may_be_gone(self):
        begin = self.folder / "begin"
        shutil.copytree(self.whole / "checkpoint-000002", begin)
        settings = [f"lora.init_from={begin}"]
        config = json.loads(self.json.read_text())
        del config["lora"]
        self.json.write_text(json.dumps(config))
        self.assertEqual(self.train(self.run_folder, *settings, "checkpoint.keep=9").code, 0)
        again = self.folder / "again"
        shutil.copytree(self.run_folder, again, symlinks=True)
        shutil.rmtree(again / f"checkpoint-{STEPS:06}")
        shutil.move(begin, self.folder / "gone")
        ended = self.train(again, *settings, more=["--resume"])
        self.assertEqual(ended.code, 0, ended.log)
        for name in ("adapter_model.safetensors", "state.safetensors", "adapter_config.json"):
            self.assertEqual((again / f"checkpoint-{STEPS:06}" / name).read_bytes(),
                             (self.run_folder / f"checkpoint-{STEPS:06}" / name).read_bytes(), name)
        states = [json.loads((f / f"checkpoint-{STEPS:06}" / "state.json").read_text()) for f in (again, self.run_folder)]
        self.assertEqual(*states)
        # Another adapter there is another run.
        shutil.copytree(self.whole / "checkpoint-000004", begin)
        ended = self.train(again, *settings, more=["--resume"])
        self.assertEqual(ended.code, 2, ended.log)
        self.assertIn("lora.init_from", ended.log)


if __name__ == "__main__":
    unittest.main()
