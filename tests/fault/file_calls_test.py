"""Every call of the file system that a resumed run makes fails with each error, once or from then on: the run ends as
documented with one clear line, what was saved is whole, and a file whose sync has failed is never synced again. Then disks that
are really full, from each phase of a save on. LEMA_FAULT_STRIDE=k takes every k-th case only, LEMA_FAULT_BOTH=1
every error both once and from then on, LEMA_FREE_PAGES=n disks at every phase that have 0 to n - 1 blocks of 4 KiB left."""
import collections
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from faulty_run import FAULTY, MUTATING, PART, STEPS, FaultCase
from mounted_image import mounted, require_mounts

ERRORS = ("EIO", "ENOSPC", "EROFS", "EMFILE", "EINTR", "short")
CODES = {0, 74}  # survived, or not needed; an error of the file system


class FileCalls(FaultCase):
    def prepare(self, output):
        """As a run killed after step 4 leaves it."""
        shutil.copytree(self.whole, output, symlinks=True)
        shutil.rmtree(output / f"checkpoint-{STEPS:06}")

    def ended_well(self, output, ended, what):
        self.assertIn(ended.code, CODES, f"{what}: {ended.log}")
        lines = ended.log.strip().splitlines()
        if ended.code:
            self.assertTrue(lines[-1].startswith("lema: error: "), f"{what}: {ended.log}")
            self.assertEqual(sum(line.startswith("lema: error: ") for line in lines), 1, f"{what}: {ended.log}")
        else:
            self.assertEqual(self.acknowledged(ended.log), STEPS, f"{what}: {ended.log}")
        # Steps 2 and 4 were there; 2 may go when 6 is sound.
        self.assertTrue(self.is_whole(output, 4), f"{what}: step 4 is lost")
        steps = self.saved(output)
        self.assertTrue(6 in steps or 2 in steps, f"{what}: {steps}")
        for step in steps:
            self.assertTrue(self.is_whole(output, step), f"{what}: step {step} is torn")

    def test_every_call_and_error(self):
        calls = self.calls(under=self.folder, prepare=self.prepare, more=["--resume"])
        # Every error at every call, EIO once and from then on; whether another stays alternates from call to call.
        both = ERRORS if os.environ.get("LEMA_FAULT_BOTH") else ("EIO",)
        cases = [(n, error, sticky) for n in range(1, len(calls) + 1) for e, error in enumerate(ERRORS)
                 for sticky in (("", ",sticky") if error in both else (("", ",sticky")[(n + e) % 2],))
                 if error != "short" or calls[n - 1][0] in ("pread", "write")]
        self.assertGreater(len(cases), 3000)
        cases = cases[::int(os.environ.get("LEMA_FAULT_STRIDE", 1))]

        def work(case):
            n, error, sticky = case
            output = self.folder / f"run-{n}-{error}{sticky}"
            self.prepare(output)
            log = output.with_suffix(".log")
            ended = self.train(output, binary=FAULTY, more=["--resume"], under=self.folder, log=log,
                               fault=f"at={n},do={error}{sticky}")
            what = f"{error}{sticky} at call {n} {calls[n - 1]}"
            self.ended_well(output, ended, what)
            if calls[n - 1][0] == "fsync":
                made = [line.split(" ", 2)[1:] for line in log.read_text().splitlines()]
                self.assertEqual(made[n:].count(made[n - 1]), 0, f"{what}: synced again")
            shutil.rmtree(output)
            log.unlink()
            return ended.code

        codes = collections.Counter(self.together(work, cases))
        self.assertGreater(codes[74], codes.total() // 2, "most faults were not met")
        print(f"{codes.total()} faults at {len(calls)} calls; exit codes {dict(codes)}")

    def test_a_periodic_save_that_fails_ends_no_run(self):
        """It is abandoned whole, once, and the run goes on to its next save; where all fail, to the last one."""
        calls = self.calls("checkpoint.keep=9", under=self.folder / "counted")
        first = next(n for n, call in enumerate(calls, 1) if call[0] == "mkdir" and ".checkpoint-000002" in call[1])
        named = next(n for n, call in enumerate(calls, 1) if call[0] == "rename_new")
        needed = MUTATING - {"unlink", "rmdir"} | {"close"}
        cases = [(n, error) for n in range(first, named + 1) if calls[n - 1][0] in needed for error in ("EIO", "ENOSPC")]
        self.assertGreater(len(cases), 60)

        def work(case):
            n, error = case
            what = f"{error} at call {n} {calls[n - 1]}"
            output = self.folder / f"run-{n}-{error}"
            log = output.with_suffix(".log")
            ended = self.train(output, "checkpoint.keep=9", binary=FAULTY, under=output, log=log, fault=f"at={n},do={error}")
            self.assertEqual(ended.code, 0, f"{what}: {ended.log}")
            if 2 in self.saved(output):
                self.assertEqual(calls[n - 1][0], "close", what)  # of what was only looked at or synced
            else:
                self.assertRegex(ended.log, r"(?m)^step 2 is not saved: .*(Input/output error|No space left on device); "
                                            "the run goes on and saves step 4$", what)
                self.assertEqual(self.saved(output), [4, 6], what)
            self.check_end(output, what)
            made = [line.split(" ", 2)[1:] for line in log.read_text().splitlines()]
            if made[n - 1][0] == "fsync":
                self.assertNotIn(made[n - 1], made[n:], what)
            shutil.rmtree(output)
            log.unlink()

        self.together(work, cases)
        if PART:
            return
        output = self.folder / "full"
        ended = self.train(output, binary=FAULTY, under=output / ".checkpoint", fault="at=1,do=ENOSPC,sticky")
        self.assertEqual(ended.code, 74, ended.log)
        for step, next_step in ((2, 4), (4, 6)):
            self.assertRegex(ended.log, f"(?m)^step {step} is not saved: .*the run goes on and saves step {next_step}$")
        self.assertRegex(ended.log.splitlines()[-1], "^lema: error: step 6 is not saved: .*nothing was saved before$")
        self.assertEqual(self.saved(output), [])

    def test_an_older_checkpoint_that_cannot_be_read_ends_no_run(self):
        """It is read once more to know whether those before it may go: they stay then."""
        self.in_one_part()
        output = self.folder / "run"
        older = self.folder / "counted" / "checkpoint-000004"
        reads = [n for n, (function, _) in enumerate(self.calls(under=older), 1) if function == "pread"]
        ended = self.train(output, binary=FAULTY, under=output / "checkpoint-000004", fault=f"at={reads[-1]},do=EIO,sticky")
        self.assertEqual(ended.code, 0, ended.log)
        self.assertRegex(ended.log, "checkpoint-000004/.*cannot read at byte 0: Input/output error")
        self.assertEqual(self.saved(output), [2, 4, 6])

    def test_a_fresh_run_says_what_it_could_not_do(self):
        self.in_one_part()
        calls = self.calls(under=self.folder)
        for n in range(1, len(calls) + 1, 29):
            output = self.folder / f"run-{n}"
            ended = self.train(output, binary=FAULTY, under=self.folder, fault=f"at={n},do=EIO,sticky")
            self.assertIn(ended.code, CODES, ended.log)
            last = self.acknowledged(ended.log)
            if last:
                self.assertTrue(self.is_whole(output, last))
                if ended.code:
                    self.assertIn(f"checkpoint-{last:06} stands", ended.log)


class FullDisk(FaultCase):
    def test_full_at_each_phase_of_a_save(self):
        place = self.folder / "disk"
        calls = self.calls(under=self.folder / "counted")
        mutating = [n for n, (function, _) in enumerate(calls, 1) if function in MUTATING]
        pages = int(os.environ.get("LEMA_FREE_PAGES", 0))
        cases = [(n, 4096 * left) for n in mutating for left in range(pages)]
        cases = cases or [(n, 0) for n in mutating[::max(1, len(mutating) // 45)]]
        self.assertGreaterEqual(len(cases), 40)

        def work(case):
            n, left = case
            with mounted("tmpfs", place.with_name(f"disk-{n}-{left}"), "-t", "tmpfs", "-o", "size=4m") as disk:
                ended = self.train(disk / "run", binary=FAULTY, under=disk / "run", mount=disk,
                                   fault=f"at={n},do=fill,leave={left}")
                self.assertIn(ended.code, (0, 74), ended.log)
                if ended.code:
                    self.assertTrue(ended.log.strip().splitlines()[-1].startswith("lema: error: "), ended.log)
                    self.assertRegex(ended.log, "No space left|are free")
                (disk / "filler").unlink()
                self.check_folder(disk / "run", ended.log, f"{left} bytes left from call {n} {calls[n - 1]} on")
            place.with_name(f"disk-{n}-{left}").rmdir()
            return ended.code

        codes = collections.Counter(self.together(work, cases))
        self.assertGreater(codes[74], codes.total() // 4, "most disks were not full")
        print(f"{codes.total()} full disks; exit codes {dict(codes)}")

    def test_too_little_room_is_said_before_the_first_step(self):
        self.in_one_part()
        with mounted("tmpfs", self.folder / "small", "-t", "tmpfs", "-o", "size=512k") as disk:
            ended = self.train(disk / "run")
            self.assertEqual(ended.code, 74, ended.log)
            self.assertRegex(ended.log.strip().splitlines()[-1], r"run: 1\.0 MiB are to be written, [\d.]+ KiB are free")
            self.assertNotIn("step 1/", ended.log)
            self.assertFalse((disk / "run").exists())


if __name__ == "__main__":
    require_mounts()
    unittest.main()
