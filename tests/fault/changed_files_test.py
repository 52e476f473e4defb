"""Files that change while a run uses them, a fresh one or one that is resumed: cut, emptied, written to, replaced,
deleted, made unreadable, slow. The run is held by SIGSTOP at one of its calls, the file is changed, the run goes on: exit 3
or 74 with the file's name, or an end as if nothing had been; what was saved is whole; never SIGBUS."""
import collections
import json
import os
import pathlib
import shutil
import signal
import tempfile
import unittest

from faulty_run import BYTES, FAULTY, STEPS, FaultCase
from tiny_run import write_random_model, write_rows

# Where the weights are while the run goes on.
TIERS = {"mapped": [], "in memory": ["memory.disk=buffered"],
         "from disk, buffered": ["memory.residency=stream", "memory.ram=1GB", "memory.disk=buffered"],
         "from disk, direct": ["memory.residency=stream", "memory.ram=1GB", "memory.disk=direct"]}


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def write_into(path):
    """Other bytes, all through, of the same length."""
    data = path.read_bytes()
    with open(path, "r+b") as file:
        file.seek(len(data) // 4)
        file.write(bytes(b ^ 1 for b in data[len(data) // 4:]))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(bytes(b ^ 1 for b in path.read_bytes()))
    other.replace(path)


def delete(path):
    path.unlink()


def lock(path):
    path.chmod(0)


CHANGES = (cut, empty, write_into, replace, delete, lock)
IN_PLACE = (cut, empty, write_into)


class ChangedFiles(FaultCase):
    def setUp(self):
        super().setUp()
        place = tempfile.TemporaryDirectory(prefix="lema_model_")  # on a disk: direct reads are of one
        self.addCleanup(place.cleanup)
        self.sources = pathlib.Path(place.name) / "sources"
        write_random_model(self.sources / "model", blocks=2)
        write_rows(self.sources / "rows.jsonl")
        write_rows(self.sources / "eval.jsonl", 5, 9)
        self.place = self.sources.parent
        config = json.loads(self.json.read_text())
        del config["lora"]  # of which the adapter that a run begins with brings its own
        self.json.write_text(json.dumps(config))
        self.whole = self.folder / "expected"
        process = self.start_in(self.sources, self.whole, "lora.rank=2")
        log = process.communicate()[1]
        self.assertEqual(process.returncode, 0, log)
        shutil.copytree(self.whole / "checkpoint-000002", self.sources / "adapter")

    def start_in(self, place, output, *settings, more=(), **fault):
        from_there = [f"model={place / 'model'}", f"data.train={place / 'rows.jsonl'}", f"data.eval={place / 'eval.jsonl'}"]
        return self.start_run(output, *from_there, "checkpoint.keep=9", "eval.every_steps=1",
                              *(s.format(place=place) for s in settings), more=more, **fault)

    def resume_at(self, step, output):
        """A run's folder as a kill after that step leaves it; the arguments of its next run. None for 0."""
        if not step:
            return []
        later = [f"checkpoint-{s:06}" for s in self.saved(self.whole) if s > step]
        shutil.copytree(self.whole, output, symlinks=True, ignore=shutil.ignore_patterns(*later))
        return ["--resume"]

    def held(self, name, *settings, resumed, under, at):
        """A run that stands still at that call, resumed at a step or fresh; its place and its folder."""
        place, output = self.place / name, self.folder / name
        shutil.copytree(self.sources, place)
        process = self.start_in(place, output, *settings, more=self.resume_at(resumed, output),
                                under=self.path(under, place, output), fault=at)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.fail(f"{name} was not held: {process.stderr.read()}")
        return process, place, output

    def path(self, name, place, output):
        return output / name[4:] if name.startswith("run/") else place / name

    def test_a_first_direct_read_that_is_refused(self):
        """As NTFS refuses that of a compressed file, which it opens for direct reads."""
        for disk, code, saying in (
                ("direct", 2, "its file system cannot read past the page cache; set memory.disk to buffered"),
                ("auto", 0, "disk: the file system cannot read past the page cache: buffered")):
            process = self.start_in(self.sources, self.folder / disk, "memory.residency=stream", "memory.ram=1GB",
                                    f"memory.disk={disk}", under="/proc/self/fd", fault="of=pread,at=1,do=EINVAL")
            log = process.communicate()[1]
            self.assertEqual(process.returncode, code, log)
            self.assertIn(saying, log)

    def check_end(self, process, output, what, wanted, file=None):
        os.kill(process.pid, signal.SIGCONT)
        log = process.communicate()[1]
        self.assertIn(process.returncode, wanted, f"{what}: {log}")
        if process.returncode:
            said = [line for line in log.splitlines() if line.startswith("lema: error: ")]
            self.assertEqual(len(said), 1, f"{what}: {log}")
            self.assertIn(file, said[0], what)
        else:
            self.assertTrue(self.is_whole(output, STEPS), f"{what}: another end")
        if output.exists():
            for step in self.saved(output):
                if file not in BYTES or step != 4:  # which itself was changed
                    self.assertTrue(self.is_whole(output, step), f"{what}: step {step} is torn")
        return process.returncode

    def run_case(self, case):
        name, settings, resumed, under, at, change, file, wanted = case
        process, place, output = self.held(name, *settings, resumed=resumed, under=under, at=at)
        change(self.path(file, place, output))
        code = self.check_end(process, output, name, wanted, pathlib.Path(file).name)
        shutil.rmtree(place)
        shutil.rmtree(output, ignore_errors=True)
        return code

    def run_cases(self, cases, least):
        self.assertGreaterEqual(len(cases), least)
        codes = collections.Counter(self.together(self.run_case, cases))
        print(f"{codes.total()} changed files; exit codes {dict(codes)}")

    def test_the_model_while_it_trains(self):
        """Between two steps, in the evaluation after a step and at a save."""
        weights, log = "model/model.safetensors", "run/metrics.jsonl"
        points = [("step", 0, log, "at=5,do=STOP,of=write"), ("evaluation", 0, log, "at=6,do=STOP,of=write"),
                  ("save", 0, "run/.checkpoint-000004", "at=2,do=STOP"),
                  ("resumed step", 2, log, "at=1,do=STOP,of=write"), ("resumed evaluation", 2, log, "at=2,do=STOP,of=write"),
                  ("resumed save", 2, "run/.checkpoint-000004", "at=2,do=STOP")]
        cases = []
        for tier, settings in TIERS.items():
            for point, resumed, under, at in points:
                for change in CHANGES:
                    is_seen = change in IN_PLACE and tier != "in memory"
                    cases.append((f"{tier} {point} {change.__name__}", ["lora.rank=2", *settings], resumed, under, at,
                                  change, weights, {3} if is_seen else {0}))
        self.run_cases(cases, 144)

    def test_the_weights_while_their_checksum_is_read(self):
        """The last of the reads of a run that has no other reason to look at the file again."""
        settings = ["lora.rank=2", *TIERS["in memory"]]
        cases = []
        for resumed in (0, 4):
            reads = self.reads("model/model.safetensors", settings, resumed)
            for change in CHANGES:
                cases.append((f"checksum {resumed} {change.__name__}", settings, resumed, "model/model.safetensors",
                              f"at={reads},do=STOP,of=pread", change, "model/model.safetensors",
                              {3} if change in IN_PLACE else {0}))
        self.run_cases(cases, 12)

    def reads(self, file, settings, resumed):
        """How many an undisturbed run makes of a file."""
        output, log = self.folder / "counted", self.folder / "log"
        process = self.start_in(self.sources, output, *settings, more=self.resume_at(resumed, output), log=log,
                                under=self.path(file, self.sources, output))
        self.assertEqual((process.communicate(), process.returncode)[1], 0)
        count = sum(" pread " in line for line in log.read_text().splitlines())
        shutil.rmtree(output)
        log.unlink()
        return count

    def test_data_between_its_reading_and_its_hash(self):
        """And between the hash and the last look at it."""
        cases = []
        for resumed in (0, 4):
            for file in ("rows.jsonl", "eval.jsonl"):
                for at in ("at=2,do=STOP,of=open", "at=2,do=STOP,of=stat"):
                    for change in CHANGES:
                        cases.append((f"{file} {resumed} {at} {change.__name__}", ["lora.rank=2"], resumed, file, at, change, file,
                                      {0} if change == lock else {3}))
        self.run_cases(cases, 48)

    def test_files_while_they_are_read(self):
        """Held at the first read, by when a file is open, and before it is opened."""
        files = {"model/model.safetensors": {3, 74}, "model/config.json": {3}, "model/tokenizer.json": {3},
                 "rows.jsonl": {3, 74}, "eval.jsonl": {3, 74}, "adapter/adapter_model.safetensors": {3},
                 "adapter/adapter_config.json": {3}}
        cases = []
        for file, wanted in files.items():
            settings = ["lora.init_from={place}/adapter"] if file.startswith("adapter") else ["lora.rank=2"]
            for resumed in (0,) if file.startswith("adapter") else (0, 4):
                for change in (cut, empty, delete):
                    cases.append((f"before {resumed} {file} {change.__name__}".replace("/", " "), settings, resumed, file,
                                  "at=1,do=STOP", change, file, wanted))
                for change in IN_PLACE:
                    cases.append((f"in {resumed} {file} {change.__name__}".replace("/", " "), settings, resumed, file,
                                  "at=1,do=STOP,of=pread", change, file, wanted))
        self.run_cases(cases, 70)

    def test_a_checkpoint_while_it_is_read(self):
        """At the first and at the last of its reads: the one before it serves, or the run says which file it was."""
        cases = []
        for file in (*BYTES, "state.json", "manifest.json"):
            name = f"run/checkpoint-000004/{file}"
            for at in {1, self.reads(name, ["lora.rank=2"], 4)}:
                for change in (*IN_PLACE, delete):
                    cases.append((f"{file} {at} {change.__name__}", ["lora.rank=2"], 4, name, f"at={at},do=STOP,of=pread",
                                  change, name, {0, 3, 74}))
        self.run_cases(cases, 20)

    def test_files_that_cannot_be_read_or_only_slowly(self):
        files = ["model/model.safetensors", "model/config.json", "model/tokenizer.json", "rows.jsonl", "eval.jsonl",
                 "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
        faults = {"at=1,do=EACCES,of=open": 74, "at=1,do=EIO,of=pread,sticky": 74, "at=1,do=slow,of=pread": 0}

        def work(case):
            file, fault = case
            output = self.folder / f"{file} {fault}".replace("/", " ")
            settings = ["lora.init_from={place}/adapter"] if file.startswith("adapter") else ["lora.rank=2"]
            process = self.start_in(self.sources, output, *settings, under=self.sources / file, fault=fault)
            log = process.communicate()[1]
            self.assertEqual(process.returncode, faults[fault], f"{file} {fault}: {log}")
            if process.returncode:
                self.assertIn(pathlib.Path(file).name, log.strip().splitlines()[-1])
            elif not file.startswith("adapter"):
                self.assertTrue(self.is_whole(output, STEPS), f"{file} {fault}: another end")

        self.together(work, [(file, fault) for file in files for fault in faults])


if __name__ == "__main__":
    unittest.main()
