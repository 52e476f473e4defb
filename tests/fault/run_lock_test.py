"""Two runs on one folder, locks of the dead, checkpoints that were edited or are another run's, and model, data or config that
changed: each is refused within a second with a reason, or passed over with one, and nothing is lost. Every one is a
`case`; how many held is printed. Standard library only."""
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import unittest

from crc32c import crc32c
from faulty_run import FAULTY, STEPS, FaultCase
from process_memory import BOUNDED
from tiny_run import LEMA, write_random_model, write_rows

LEAST = 120  # cases
held = set()  # names of the cases that held


def tearDownModule():
    print(f"{len(held)} cases held")
    assert len(held) >= LEAST or len(sys.argv) > 1, sorted(held)


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


class LockCase(FaultCase):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"

    @contextlib.contextmanager
    def case(self, name):
        with self.subTest(name):
            yield
            held.add((type(self).__name__, name))

    def unfinished(self, output=None):
        """The undisturbed run's folder without its last save."""
        output = output or self.run_folder
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(self.whole, output, symlinks=True)
        shutil.rmtree(output / f"checkpoint-{STEPS:06}")
        return output


class Locks(LockCase):
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
                with self.case(f"beside a run: {[str(x)[-6:] for x in more]}"):
                    took = self.refused(more=more, saying=f"in use by process {first.pid} on {socket.gethostname()}")
                    if BOUNDED:
                        self.assertLess(took, 1)
        finally:
            first.kill()
            first.communicate()
        with self.case("the lock of the dead is none"):
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
            with self.case("beside a run that loads"):
                self.refused()
        finally:
            first.kill()
            first.communicate()

    def test_of_four_that_start_at_once_one_runs(self):
        for more in ([], ["--resume"]):
            with self.case(f"four at once: {more}"):
                if more:
                    self.unfinished()
                runs = [self.start_run(self.run_folder, "train.max_steps=100000", binary=LEMA,
                                       more=[*more, *["--accept-changed", "config"][:2 * len(more)]]) for _ in range(4)]
                try:
                    deadline = time.monotonic() + 20
                    while sum(run.poll() is None for run in runs) > 1 and time.monotonic() < deadline:
                        time.sleep(0.01)
                    alive = [run for run in runs if run.poll() is None]
                    self.assertEqual(len(alive), 1)
                    for run in runs:
                        if run is not alive[0]:
                            self.assertEqual(run.returncode, 2)
                            self.assertRegex(run.stderr.read(), f"in use by (process {alive[0].pid} |another process)")
                finally:
                    for run in runs:
                        run.kill()
                        run.communicate()
                    shutil.rmtree(self.run_folder)

    def test_any_leftover_lock_is_harmless(self):
        for text in (b"", b"process 1 on elsewhere\n", b"process 999999999 on here\n", b"\xff\x1b[2J" * 400):
            with self.case(f"a lock that nobody holds: {text[:20]}"):
                self.unfinished()
                (self.run_folder / ".lock").write_bytes(text)
                ended = self.train(self.run_folder, more=["--resume"])
                self.assertEqual(ended.code, 0, ended.log)
                self.check_end(self.run_folder, text)

    def test_a_lock_held_by_anyone_counts_whatever_it_says(self):
        self.run_folder.mkdir()
        for text, saying in ((b"", "in use by another process"), (b"x\x1b[2J\n", r"in use by x\\x1b\[2J"),
                             (b"y" * 5000, "in use by another process"),
                             (b"process 7 on elsewhere\n", "in use by process 7 on elsewhere")):
            with self.case(f"a held lock: {text[:30]}"), open(self.run_folder / ".lock", "wb") as lock:
                lock.write(text)
                lock.flush()
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.refused(saying=saying)
                self.assertEqual((self.run_folder / ".lock").read_bytes(), text)

    def test_what_is_no_lock_file_is_neither_followed_nor_waited_for(self):
        aside = self.folder / "aside"
        aside.write_text("")
        kinds = {"a folder": lambda path: path.mkdir(), "a pipe": os.mkfifo,
                 "a link to a file": lambda path: path.symlink_to(aside),
                 "a link to nothing": lambda path: path.symlink_to(self.folder / "nothing"),
                 "a link to a pipe": lambda path: (os.mkfifo(self.folder / "pipe"), path.symlink_to(self.folder / "pipe"))}
        for name in (".lock", "metrics.jsonl", "train.log"):
            for kind, make in kinds.items():
                with self.case(f"{name} is {kind}"):
                    for path in (self.run_folder, self.folder / "pipe"):
                        shutil.rmtree(path, True) if path.is_dir() else path.unlink(True)
                    self.run_folder.mkdir()
                    make(self.run_folder / name)
                    ended = self.train(self.run_folder, wait=20)
                    self.assertEqual(aside.read_text(), "")
                    self.assertFalse((self.folder / "nothing").exists())
                    if name == "metrics.jsonl" and kind == "a link to a file":  # replaced by a log of its own
                        self.check_end(self.run_folder, kind)
                        continue
                    self.assertIn(ended.code, (3, 74) if name == "metrics.jsonl" else (74,), ended.log)
                    self.assertIn(f"{name}: not a regular file", ended.log.splitlines()[-1])
                    self.assertEqual(self.saved(self.run_folder), [])
                    if name == ".lock":
                        self.assertEqual([p.name for p in self.run_folder.iterdir()], [name])

    def test_a_lock_that_cannot_be_had(self):
        for kind, do, code, saying in (
                ("not to be opened", "of=create,at=1,do=EACCES", 74, r"\.lock: cannot open: Permission denied"),
                ("of a file system without locks", "of=flock,at=1,do=ENOLCK", 0, "this file system has no locks"),
                ("of a file system that fails", "of=flock,at=1,do=EIO", 74, "cannot lock: Input/output error")):
            with self.case(f"a lock {kind}"):
                self.unfinished()
                ended = self.train(self.run_folder, more=["--resume"], binary=FAULTY, fault=do)
                self.assertEqual(ended.code, code, ended.log)
                self.assertRegex(ended.log, saying)
                if code:
                    self.assertEqual(self.saved(self.run_folder), [2, 4])
                    self.assertEqual(self.train(self.run_folder, more=["--resume"]).code, 0)
                self.check_end(self.run_folder, kind)

    def test_a_file_system_without_links(self):
        for failing in ("of=symlink,at=1,do=EPERM", "of=symlink,at=1,do=EPERM,sticky"):
            with self.case(f"a file system without links, {failing}"):
                self.unfinished()
                ended = self.train(self.run_folder, more=["--resume"], binary=FAULTY, fault=failing)
                self.assertEqual(ended.code, 0, ended.log)
                self.assertRegex(ended.log, "last: its file system has no links; checkpoint-")
                self.assertEqual(self.saved(self.run_folder), [4, 6])
                if failing.endswith("sticky"):  # else what follows makes the link
                    self.assertFalse(os.path.lexists(self.run_folder / "last"))

    def test_the_best_checkpoint_stays_without_a_link_to_it(self):
        rows = write_rows(self.folder / "other.jsonl", 7, seed=9)
        rising = [f"data.eval={rows}", "eval.every_steps=1", "checkpoint.every_steps=1", "checkpoint.keep=2",
                  "train.max_steps=30", "optimizer.lr=0.1"]
        with self.case("a best checkpoint without a link"):
            self.assertEqual(self.train(self.run_folder, *rising).code, 0)
            kept = self.saved(self.run_folder)
            self.assertEqual(kept[1:], [29, 30])
            shutil.rmtree(self.run_folder)
            ended = self.train(self.run_folder, *rising, binary=FAULTY, fault="of=symlink,at=1,do=EPERM,sticky")
            self.assertEqual(ended.code, 0, ended.log)
            self.assertEqual(self.saved(self.run_folder), kept)

    def test_what_dead_runs_left_goes_and_what_live_ones_write_stays(self):
        dead = subprocess.Popen(["true"])
        dead.wait()
        gone = [f".checkpoint-000006.tmp-{dead.pid}-0badf00d", ".checkpoint-000001.trash", f".last.tmp-{dead.pid}-00000000",
                f".run.json.tmp-{dead.pid}-0badf00d", f".metrics.jsonl.tmp-{dead.pid}-0badf00d"]
        stay = [f".last.tmp-{os.getpid()}-0badf00d", ".notes", ".x.tmp-abc", ".trash", ".mine.trash", ".checkpoint-x.trash",
                "checkpoint-000001.trash", f".other.tmp-{dead.pid}-0badf00d", f".last.tmp-{dead.pid}-0badf00",
                f".last.tmp-{dead.pid}-0badf00d0", f".last.tmp-{dead.pid}-old-copy", f".last.tmp-{dead.pid}"]
        for name in gone + stay:
            with self.case(f"a leftover {re.sub('[0-9]+-', '', name)}"):
                self.unfinished()
                (self.run_folder / name).mkdir()
                (self.run_folder / name / "file").write_text("x")
                ended = self.train(self.run_folder, more=["--resume"])
                self.assertEqual(ended.code, 0, ended.log)
                left = [p.name for p in self.run_folder.iterdir() if p.name.startswith(".") or p.name == name]
                self.assertEqual(left, [name] if name in stay else [])

    def test_nothing_is_left_where_a_run_never_began(self):
        with self.case("a run that never began"):
            self.refused("data.train=/none", code=3, saying="no such file|/none")
            self.assertFalse(self.run_folder.exists())


class Checkpoints(LockCase):
    def resumed_past(self, spoil, reason):
        """The newest of the checkpoints of steps 2 and 4 is spoilt: the run goes on from the other one and says why."""
        self.unfinished()
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
            with self.case(f"damaged: {reason}"):
                self.resumed_past(spoil, reason)

    def test_one_changed_bit_of_any_file_is_seen(self):
        for name in sorted(p.name for p in (self.whole / "checkpoint-000004").iterdir()):
            for at in (0, 40, -1):
                with self.case(f"{name}, byte {at}"):
                    self.resumed_past(lambda c: flip(c / name, at), name)

    def test_what_is_sound_and_of_something_else_is_refused(self):
        """Checkpoints whose manifest holds, of another rank, model, step or dtype."""
        rank, model = self.folder / "rank", self.folder / "model-2"
        write_random_model(model, blocks=2)
        self.assertEqual(self.train(rank, "lora.rank=3", "checkpoint.keep=9").code, 0)
        self.assertEqual(self.train(self.folder / "blocks", f"model={model}", "checkpoint.keep=9").code, 0)
        other_rank, other_model = rank / "checkpoint-000004", self.folder / "blocks" / "checkpoint-000004"
        spare = self.folder / "spare"

        def edited(name, change):
            shutil.rmtree(spare, True)
            shutil.copytree(self.whole / "checkpoint-000004", spare)
            edit(spare, name, change)
            return spare

        def taken(name, source):
            return lambda: edited(name, lambda data: (source / name).read_bytes())

        def changed(name, old, new):
            def change(data):
                self.assertIn(old, data)
                return data.replace(old, new)
            return lambda: edited(name, change)

        adapter, state, config = "adapter_model.safetensors", "state.safetensors", "adapter_config.json"
        for name, make, code, saying, more in (
                ("another rank", lambda: other_rank, 2, "another config: lora.rank 3, now 2", []),
                ("another rank, accepted", lambda: other_rank, 3, "spare|rank", ["--accept-changed", "config"]),
                ("another model", lambda: other_model, 2, "another model", []),
                ("another model, accepted", lambda: other_model, 3, "no adapted linear of this run",
                 ["--accept-changed", "model", "--accept-changed", "text"]),
                ("an adapter of another rank", taken(adapter, other_rank), 3, adapter, []),
                ("an adapter of another model", taken(adapter, other_model), 3, "no adapted linear of this run", []),
                ("moments of another rank", taken(state, other_rank), 3, "moment1 is missing or not F32", []),
                ("moments of another type", changed(state, b'"F32"', b'"I32"'), 3, "moment1 is missing or not F32", []),
                ("moments of another name", changed(state, b'"moment2"', b'"moment3"'), 3, "moment2 is missing", []),
                ("an adapter of another type", changed(adapter, b'"F32"', b'"I32"'), 3, adapter, []),
                ("an adapter of other tensors", changed(adapter, b"layers.0.", b"layers.1."), 3, "the adapter has no model.layers.0", []),
                ("another method", changed(config, b'"LORA"', b'"IA3_"'), 3, config, []),
                ("a state without a step", changed("state.json", b'"step"', b'"stop"'), 3, "state.json", [])):
            with self.case(name):
                self.unfinished()
                keep = {path: path.read_bytes() for path in self.run_folder.rglob("*") if path.is_file()}
                ended = self.train(self.run_folder, more=["--resume", make(), *more])
                self.assertEqual(ended.code, code, ended.log)
                self.assertRegex(ended.log, saying)
                self.assertEqual(keep, {path: path.read_bytes() for path in self.run_folder.rglob("*") if path.is_file()})

    def test_one_of_another_run_is_refused_by_name(self):
        with self.case("a checkpoint of another run among its own"):
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


class Changes(LockCase):
    """A run resumed with something changed since: the first word of a case is what --accept-changed calls it."""

    def refused_then_accepted(self, name, kind, saying, settings=(), also=(), code=0):
        """`also`: what else has changed by it; `code`: of the accepted run."""
        output = self.unfinished(self.folder / "changed")
        with self.case(f"{kind}: {name}"):
            ended = self.train(output, *settings, more=["--resume"])
            self.assertEqual(ended.code, 2, ended.log)
            self.assertIn(saying, ended.log)
            self.assertIn(f"--accept-changed {kind}", ended.log)
            self.assertEqual(self.saved(output), [2, 4])
            wrong = "data" if kind == "model" else "model"
            self.assertEqual(self.train(output, *settings, more=["--resume", "--accept-changed", wrong]).code, 2)
            names = [x for name in (kind, *also) for x in ("--accept-changed", name)]
            accepted = self.train(output, *settings, more=["--resume", *names])
            self.assertEqual(accepted.code, code, accepted.log)
            self.assertRegex(accepted.log, f"{re.escape(saying)}.*; accepted")

    def test_a_key_of_the_config(self):
        for key, value, old, new in (
                ("seed", 8, 42, 8), ("data.max_tokens", 30, None, None),
                ("data.too_long", "drop", '"error"', '"drop"'), ("data.bad_rows", "skip", '"error"', '"skip"'),
                ("data.shuffle", "false", "true", "false"),
                ("lora.dropout", 0.2, "0.0", 0.2),
                ("optimizer.lr", 0.02, 0.01, 0.02), ("optimizer.eps", 1e-6, None, None),
                ("optimizer.weight_decay", 0.1, None, None), ("optimizer.clip", 0.5, None, None),
                ("schedule.name", "linear", '"cosine"', '"linear"'), ("schedule.warmup", 2, None, None),
                ("schedule.min_lr_ratio", 0.5, None, None), ("train.max_steps", 8, 6, 8),
                ("guard.nonfinite", "skip", '"stop"', '"skip"'), ("guard.max_skips", 7, None, None),
                ("guard.spike_zscore", 9, None, None)):
            saying = f"another config: {key} " + (f"{old}, now {new}" if new is not None else "")
            self.refused_then_accepted(key, "config", saying, [f"{key}={value}"])
        for key, value in (("lora.alpha", 3), ("lora.rslora", "true")):  # the adapter itself says otherwise
            self.refused_then_accepted(key, "config", f"another config: {key} ", [f"{key}={value}"], code=2)

    def test_the_numeric_plan(self):
        for key, value, also in (("train.micro_batch_size", 2, ["config"]), ("train.batch_size", 2, ["config"]),
                                 ("train.token_tile", 16, ["config"]), ("compute", "bf16", ["config"]),
                                 ("data.packing", "false", ["config"])):
            self.refused_then_accepted(key, "plan", "another numeric plan: ", [f"{key}={value}"], also)

    def test_model_and_data(self):
        weights, config, tokenizer = (self.model / n for n in ("model.safetensors", "config.json", "tokenizer.json"))

        def write(path, change):
            return path, lambda: path.write_bytes(change(path.read_bytes()))

        for name, kind, saying, (path, change), *also in (
                ("a bit of the weights", "model", "another model: its weights", write(weights, lambda b: b[:-3] + b"\x40" + b[-2:])),
                ("the config", "model", "another model", write(config, lambda b: b.replace(b"1e-05", b"1e-06")), "text"),
                ("a row more", "data", "data.train", write(self.data, lambda b: b + b'{"tokens": [1, 2, 3]}\n')),
                ("a row less", "data", "data.train", write(self.data, lambda b: b[b.index(b"\n") + 1:])),
                ("rows in another order", "data", "data.train",
                 write(self.data, lambda b: b"".join(b.splitlines(True)[::-1]))),
                ("a digit", "data", "data.train", write(self.data, lambda b: b.replace(b"1", b"2", 1))),
                ("the tokenizer", "text", "tokenizer or chat template",
                 write(tokenizer, lambda b: b.replace(b"<|im_start|>", b"<|im_begin|>")))):
            keep = path.read_bytes()
            change()
            self.assertNotEqual(path.read_bytes(), keep)
            self.refused_then_accepted(name, kind, saying, also=also)
            path.write_bytes(keep)

    def test_templates_and_rows_to_evaluate(self):
        template, rows = self.folder / "template.jinja", self.folder / "eval.jsonl"
        template.write_text("{{ messages[0].content }}")
        shutil.copy(self.data, rows)
        settings = [f"data.chat_template={template}", f"data.eval={rows}", "eval.every_steps=2"]
        shutil.rmtree(self.whole)
        self.assertEqual(self.train(self.whole, *settings, "checkpoint.keep=9").code, 0)
        for path, key, *also in ((template, "data.chat_template", "text"), (rows, "data.eval")):
            keep = path.read_text()
            path.write_text(keep.replace("0", "1", 1))
            self.refused_then_accepted(key, "config", f"another config: {key} ", settings, also)
            path.write_text(keep)

    def test_what_changes_nothing_is_not_asked_about(self):
        moved = {}
        for name, path in (("model", self.model), ("data.train", self.data)):
            moved[name] = self.folder / f"moved-{path.name}"
            (shutil.copytree if path.is_dir() else shutil.copy)(path, moved[name])
        for key, value in (("threads", 2), ("log.every_steps", 3), ("checkpoint.keep", 3), ("checkpoint.every_steps", 1),
                           ("memory.residency", "stream"), ("memory.activations", "recompute"), ("memory.disk", "mmap"),
                           ("data.cache", "auto"), *moved.items()):
            with self.case(f"nothing: {key}"):
                output = self.unfinished(self.folder / "changed")
                ended = self.train(output, f"{key}={value}", more=["--resume"])
                self.assertEqual(ended.code, 0, ended.log)
                self.check_end(output, key)


if __name__ == "__main__":
    unittest.main()
