"""Memory runs out at the first request of each place in the program that asks for any, once or from then on: exit 4
with one line that says so, nothing half-written, what was saved whole. LEMA_FAULT_STRIDE=k takes every k-th place
only (default 4). On a GPU (LEMA_RUN_DEVICE=cuda): at each allocation of device or page-locked memory, and all that was
handed out is freed at the end."""
import collections
import os
import re
import shutil
import unittest

from faulty_run import FAULTY, STEPS, FaultCase
from tiny_run import LEMA, ON_GPU

STRIDE = int(os.environ.get("LEMA_FAULT_STRIDE", 1 if ON_GPU else 4))


class MemoryCase(FaultCase):
    def as_killed(self, output):
        """A run's folder as a kill after step 4 leaves it."""
        shutil.copytree(self.whole, output, symlinks=True)
        shutil.rmtree(output / f"checkpoint-{STEPS:06}")

    def ended_well(self, output, ended, what):
        lines = ended.log.strip().splitlines()
        if ended.code == 0:  # a line of the log was lost, or memory was asked for once more
            self.assertTrue(self.is_whole(output, STEPS), f"{what}: another end")
            return
        self.assertEqual(ended.code, 4, f"{what}: {ended.log}")
        self.assertRegex(lines[-1], "^lema: error: .*(out of memory|cannot allocate|cannot lock|[Cc]annot start .* threads)", what)
        self.assertEqual(sum(line.startswith("lema: error: ") for line in lines), 1, f"{what}: {ended.log}")
        last = self.acknowledged(ended.log)
        if last:
            self.assertTrue(self.is_whole(output, last), f"{what}: the save of step {last} is lost")
        for step in self.saved(output):
            self.assertTrue(self.is_whole(output, step), f"{what}: step {step} is torn")


@unittest.skipIf(ON_GPU, "the driver asks for memory when it likes")
class Memory(MemoryCase):
    def sites(self, output, more=()):
        """Numbers of the requests that are the first of their place."""
        path = self.folder / "sites"
        ended = self.train(output, binary=FAULTY, more=more, sites=path)
        self.assertEqual(ended.code, 0, ended.log)
        shutil.rmtree(output)
        return [int(line) for line in path.read_text().split()]

    def run_all(self, prepare, more):
        output = self.folder / "counted"
        prepare(output)
        sites = self.sites(output, more)
        # Every place once, every fourth of them from then on too; all of them where none is left out.
        every = 1 if STRIDE == 1 else 4 * STRIDE
        cases = [(n, "") for n in sites[::STRIDE]] + [(n, ",sticky") for n in sites[STRIDE // 2::every]]

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
            shutil.rmtree(output, ignore_errors=True)
            return ended.code

        codes = collections.Counter(self.together(work, cases))
        self.assertGreater(codes[4], 0.9 * codes.total(), "many failures were not met")
        print(f"{codes.total()} failures at {len(sites)} places; exit codes {dict(codes)}")
        return len(cases)

    def test_a_fresh_run(self):
        self.assertGreater(self.run_all(lambda output: None, ()) * STRIDE, 4000)

    def test_a_resumed_run(self):
        self.run_all(self.as_killed, ["--resume"])

    @unittest.skipIf(os.geteuid(), "mounts need root")
    def test_a_machine_that_does_not_say_what_it_has(self):
        output = self.folder / "run"
        process = self.start(["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /proc/meminfo && '
                              'mount --bind /dev/null "/proc/$$/cgroup" && exec "$@"', "sh", LEMA,
                              "train", "--config", self.json, "--set", f"output_dir={output}"])
        log = process.communicate()[1]
        self.assertEqual(process.returncode, 0, log)
        self.assertTrue(self.is_whole(output, STEPS))


@unittest.skipUnless(ON_GPU, "of a GPU's memory")
class GpuMemory(MemoryCase):
    def run_all(self, prepare, more):
        count, output = self.folder / "count", self.folder / "counted"
        prepare(output)
        ended = self.train(output, binary=FAULTY, more=more, gpu_memory_log=count)
        self.assertEqual(ended.code, 0, ended.log)
        total, left = map(int, count.read_text().split())
        self.assertEqual(left, 0, "allocations not freed")
        self.assertGreater(total, 10)
        # Every one once, every eighth from then on too: a run on a GPU takes a second.
        cases = [(n, "") for n in range(1, total + 1, STRIDE)] + [(n, ",sticky") for n in range(1, total + 1, 8 * STRIDE)]

        def work(case):
            n, sticky = case
            output, what = self.folder / f"run-{n}{sticky}", f"allocation {n}{sticky} of {total}"
            log = output.with_suffix(".log")
            prepare(output)
            ended = self.train(output, binary=FAULTY, more=more, gpu_memory=f"at={n}{sticky}", gpu_memory_log=log)
            self.assertEqual(ended.code, 4, f"{what}: {ended.log}")
            self.ended_well(output, ended, what)
            self.assertEqual(int(log.read_text().split()[1]), 0, f"{what}: not all is freed")
            shutil.rmtree(output, ignore_errors=True)

        self.together(work, cases)
        print(f"{len(cases)} failures at {total} allocations, each exit 4")

    def test_a_fresh_run(self):
        self.run_all(lambda output: None, ())

    def test_a_resumed_run(self):
        self.run_all(self.as_killed, ["--resume"])


if __name__ == "__main__":
    unittest.main()
