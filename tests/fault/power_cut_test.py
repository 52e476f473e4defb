"""The power is cut at every call by which a run changes its folder, on real ext4 and XFS file systems: after the journal is
replayed no save that was reported is lost, no checkpoint that is there under its own name is torn, and the resumed run ends
byte-equal. Control arms: writers that lack one part of the commit protocol must lose or tear something. Each cut is asserted
to have happened. LEMA_CUTS=n: so many cuts instead, drawn from all combinations of file system, run, call, what was written
back before it, and whether the journal gets to the disk at the end; LEMA_CUT_DISKS=ext4 of file systems of that kind."""
import collections
import os
import pathlib
import queue
import random
import shutil
import tempfile
import unittest

from faulty_run import FAULTY, MUTATING, STEPS, FaultCase
from mounted_image import Disk, require_mounts
from tiny_run import write_rows

CUT = 99  # the exit status of a process whose power was cut
CUTS = int(os.environ.get("LEMA_CUTS", 0))
DISKS = {"ext4": ("ext4", ""), "xfs": ("xfs", ""), "ext4, all in the journal": ("ext4", "data=journal"),
         "ext4, metadata before data": ("ext4", "data=writeback,noauto_da_alloc")}
DISKS = {name: disk for name, disk in DISKS.items() if disk[0] in os.environ.get("LEMA_CUT_DISKS", "ext4 xfs").split()}
RUNS = {"fresh": [], "every step, few kept": ["checkpoint.every_steps=1", "checkpoint.keep=1"],
        "best": ["eval.every_steps=1", "checkpoint.keep=1"], "resumed": []}
# Writers that lack a part of the protocol: which file system, way to cut, and early call show it.
ARMS = (("ext4", "cut", "at={}", "nofilesync"), ("ext4", "cut", None, "nofoldersync"), ("ext4", "cut", "at={}", "norename"),
        ("ext4", "cut", None, "earlyprune"), ("ext4", "cut", "at={},do=data", "nofoldersync"),
        ("ext4", "cut_committed", None, "nofilesync"), ("xfs", "cut", None, "nofoldersync"),
        ("xfs", "cut_committed", None, "nofilesync"), ("ext4, all in the journal", "cut", None, "nofoldersync"),
        ("ext4, metadata before data", "cut_committed", None, "nofilesync"))
Case = collections.namedtuple("Case", "disk run call early how writer", defaults=(None, "cut", ""))


class PowerCut(FaultCase):
    def setUp(self):
        super().setUp()
        self.memory = pathlib.Path(tempfile.mkdtemp(prefix="lema_cut_", dir="/dev/shm"))
        self.addCleanup(shutil.rmtree, self.memory, True)
        self.whole = self.folder / "every step"
        self.assertEqual(self.train(self.whole, "checkpoint.keep=9", "checkpoint.every_steps=1").code, 0)
        self.idle = {kind: queue.LifoQueue() for kind in DISKS}
        self.given_up = []
        self.names = iter(range(1000))
        self.eval = write_rows(self.folder / "eval.jsonl", 3, 9)
        self.mutating = {}
        for run in RUNS:
            calls = self.calls(*self.settings(run), under=self.folder / "counted", more=self.more(run),
                               prepare=lambda output, run=run: self.prepare(run, output))
            self.mutating[run] = [n for n, (function, _) in enumerate(calls, 1) if function in MUTATING]

    def settings(self, run):
        return RUNS[run] + ([f"data.eval={self.eval}"] if run == "best" else [])

    def more(self, run):
        return ["--resume"] if run == "resumed" else []

    def prepare(self, run, output):
        """A run that is resumed was killed after step 4."""
        if run == "resumed":
            later = [f"checkpoint-{step:06}" for step in (1, 3, 5, STEPS)]
            shutil.copytree(self.whole, output, symlinks=True, ignore=shutil.ignore_patterns(*later))

    def disk(self, kind):
        """An empty one that no other thread uses."""
        try:
            return self.idle[kind].get_nowait()
        except queue.Empty:
            disk = Disk(self.memory / str(next(self.names)), *DISKS[kind])
            self.addCleanup(disk.close)
            return disk

    def cut(self, case):
        """None, or what is wrong after the cut."""
        disk = self.disk(case.disk)
        run = disk.place / "run"
        self.prepare(case.run, run)
        disk.sync()
        fault = {"early": case.early} if case.early else {}
        ended = self.train(run, *self.settings(case.run), binary=FAULTY, under=run, mount=disk.place, more=self.more(case.run),
                           writer=case.writer, fault=f"at={case.call},do={case.how}", **fault)
        disk.mount_again()
        wrong = self.what_is_wrong(case, run, ended)
        try:
            disk.clear()
        except OSError as error:  # of the kernel's file system: what lies there was looked at before
            self.given_up.append(f"{case}: {error}")
        else:
            self.idle[case.disk].put(disk)
        return wrong

    def what_is_wrong(self, case, run, ended):
        self.assertEqual(ended.code, CUT, f"{case}: no cut: {ended.log}")
        torn = [step for step in self.saved(run)
                if not (run / f"checkpoint-{step:06}" / "manifest.json").exists() or not self.is_whole(run, step)]
        if torn:
            return f"torn: {torn}"
        before = "saved checkpoint-000004\n" if case.run == "resumed" else ""
        try:
            self.check_folder(run, before + ended.log, str(case), *self.settings(case.run))
        except AssertionError as error:
            return str(error)
        return None

    def nothing_is_lost(self, cases):
        def work(case):
            self.assertIsNone(self.cut(case), str(case))
            return case.disk

        done = collections.Counter(self.together(work, cases, each=3))  # a run waits for its disk most of the time
        print(f"{done.total()} cuts, nothing lost, nothing torn: {dict(done)}")
        for disk in self.given_up:
            print(f"not emptied and not used again: {disk}")
        self.assertLessEqual(len(self.given_up), 1 + done.total() // 100)

    def drawn(self, rng, count):
        """Distinct cases; the early call, if any, is before the cut."""
        cases = set()
        while len(cases) < count:
            run = rng.choice(list(RUNS))
            call = rng.choice(self.mutating[run])
            early = rng.choice((None, "at={}", "at={},do=data"))
            cases.add(Case(rng.choice(list(DISKS)), run, call, early and early.format(rng.randrange(1, call + 1)),
                           rng.choice(("cut", "cut_committed"))))
        return sorted(cases, key=str)

    @unittest.skipIf(CUTS, "others are drawn")
    def test_at_every_call(self):
        rng = random.Random(11)
        cases = [Case(next(iter(DISKS)), "fresh", n, early) for n in self.mutating["fresh"]
                 for early in (None, f"at={rng.choice(self.mutating['fresh']) % n or 1}")]
        cases += [case for case in self.drawn(rng, 120) if case not in cases]
        self.assertGreater(len(cases), 400)
        for disk in DISKS:
            self.assertGreater(sum(case.disk == disk for case in cases), 15, disk)
        self.nothing_is_lost(cases)

    @unittest.skipUnless(CUTS, "by hand")
    def test_drawn(self):
        self.nothing_is_lost(self.drawn(random.Random(12), CUTS))

    @unittest.skipIf(CUTS, "of the cuts in ctest")
    def test_every_part_of_the_protocol_is_needed(self):
        self.in_one_part()
        mutating = self.mutating["fresh"]
        for disk, how, before, writer in ARMS:
            if disk not in DISKS:
                continue
            found = None
            for n in mutating[len(mutating) // 2::3]:
                found = self.cut(Case(disk, "fresh", n, before and before.format(n - 1), how, writer))
                if found:
                    print(f"{writer}, {disk}, {how}: at call {n}: {found[:100]}")
                    break
            self.assertTrue(found, f"a writer with {writer} lost nothing on {disk}, {how}: the test is blind")


if __name__ == "__main__":
    require_mounts(sorted({kind for kind, _ in DISKS.values()}))
    unittest.main()
