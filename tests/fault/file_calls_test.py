"""Every call of the file system that a run makes fails, once and from then on, with each error: the run ends as documented,
with one clear line, and what was saved is whole. Then a file system that is really full, at every phase of a save."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from faulty_run import FAULTY, STEPS, FaultCase

ERRORS = ("EIO", "ENOSPC", "EROFS", "EMFILE", "short", "EINTR")
CODES = {0, 2, 3, 4, 74}  # 2: `.lock` of nobody; 3: a file that ends too soon; 4: no memory


class FileCalls(FaultCase):
    def ended_well(self, output, ended, what):
        self.assertIn(ended.code, CODES, f"{what}: {ended.log}")
        last = self.acknowledged(ended.log)
        if ended.code != 0:
            lines = ended.log.strip().splitlines()
            self.assertEqual(sum(line.startswith("lema: error: ") for line in lines), 1, f"{what}: {ended.log}")
            self.assertTrue(lines[-1].startswith("lema: error: "), f"{what}: {ended.log}")
        else:
            self.assertEqual(last, STEPS, what)
        if last:
            self.assertTrue(self.is_whole(output, last), f"{what}: the save of step {last} is lost")

    def test_every_call_and_error(self):
        self.every_call_and_error("checkpoint.every_steps=3")

    def test_every_call_and_error_of_a_resumed_run(self):
        def prepare(output):
            shutil.copytree(self.whole, output, symlinks=True)
            for step in self.saved(output):
                if step > 2:
                    shutil.rmtree(output / f"checkpoint-{step:06}")

        self.every_call_and_error("checkpoint.every_steps=3", prepare=prepare, more=["--resume"])

    def every_call_and_error(self, *settings, prepare=None, more=()):
        calls = self.calls(*settings, under=self.folder, prepare=prepare, more=more)
        cases = [(n, error, sticky) for n in range(1, len(calls) + 1) for error in ERRORS
                 for sticky in ("", ",sticky") if error != "short" or calls[n - 1][0] in ("pread", "write")]
        print(f"{len(cases)} faults at {len(calls)} calls")
        self.assertGreater(len(cases), 1500)

        def work(case):
            n, error, sticky = case
            output = self.folder / "run-{}-{}{}".format(*case)
            if prepare:
                prepare(output)
            ended = self.train(output, *settings, binary=FAULTY, more=more, under=self.folder,
                               fault=f"at={n},do={error}{sticky}")
            what = f"{error}{sticky} at call {n} {calls[n - 1]}"
            self.ended_well(output, ended, what)
            # A sync that has failed is never tried again: the second would lie.
            shutil.rmtree(output, ignore_errors=True)

        self.together(work, cases)


if __name__ == "__main__":
    unittest.main()
