"""Memory runs out at the first request of each place in the program that asks for any, once or from then on: exit 4
with one line that says so, nothing half-written, what was saved whole. LEMA_FAULT_STRIDE=k takes every k-th place
only (default 4)."""
import collections
import os
import re
import shutil
import unittest

from faulty_run import FAULTY, STEPS, FaultCase

STRIDE = int(os.environ.get("LEMA_FAULT_STRIDE", 4))


class Memory(FaultCase):
    def sites(self, output, more=()):
        """Numbers of the requests that are the first of their place."""
        path = self.folder / "sites"
        ended = self.train(output, binary=FAULTY, more=more, sites=path)
        self.assertEqual(ended.code, 0, ended.log)
        shutil.rmtree(output)
        return [int(line) for line in path.read_text().split()]

    def ended_well(self, output, ended, what):
        lines = ended.log.strip().splitlines()
        if ended.code == 0:  # a line of the log was lost, or memory was asked for once more
            self.assertTrue(self.is_whole(output, STEPS), f"{what}: another end")
            return
        self.assertEqual(ended.code, 4, f"{what}: {ended.log}")
        self.assertRegex(lines[-1], "^lema: error: .*(out of memory|cannot allocate|[Cc]annot start .* threads)", what)
        self.assertEqual(sum(line.startswith("lema: error: ") for line in lines), 1, f"{what}: {ended.log}")
        last = self.acknowledged(ended.log)
        if last:
            self.assertTrue(self.is_whole(output, last), f"{what}: the save of step {last} is lost")
        for step in self.saved(output):
            self.assertTrue(self.is_whole(output, step), f"{what}: step {step} is torn")

    def run_all(self, prepare, more):
        output = self.folder / "counted"
        prepare(output)
        sites = self.sites(output, more)
        # Every place once, every fourth of them from then on too.
        cases = [(n, "") for n in sites[::STRIDE]] + [(n, ",sticky") for n in sites[STRIDE // 2::4 * STRIDE]]
        codes = collections.Counter()

        def work(case):
            n, sticky = case
            output, what = self.folder / f"run-{n}{sticky}", f"request {n}{sticky}"
            prepare(output)
            ended = self.train(output, binary=FAULTY, more=more, memory=f"at={n}{sticky}")
            self.ended_well(output, ended, what)
            if output.exists() and not sticky:
                # What was being removed the next run removes.
                left = [p.name for p in output.iterdir() if p.name.startswith(".") and not p.name.endswith(".trash")]
                self.assertEqual(left, [], what)
            codes[ended.code] += 1
            shutil.rmtree(output, ignore_errors=True)

        self.together(work, cases)
        print(f"{len(cases)} failures at {len(sites)} places; exit codes {dict(codes)}")
        return len(cases)

    def test_a_fresh_run(self):
        self.assertGreater(self.run_all(lambda output: None, ()) * STRIDE, 4000)

    def test_a_resumed_run(self):
        def prepare(output):
            shutil.copytree(self.whole, output, symlinks=True)
            shutil.rmtree(output / f"checkpoint-{STEPS:06}")

        self.run_all(prepare, ["--resume"])


if __name__ == "__main__":
    unittest.main()
