"""kill -9 before every call by which a run changes the file system, and at random instants: no save that was reported is
lost, what is left half-written goes, and the resumed run ends byte-equal. LEMA_FAULT_STRIDE=k takes every k-th call
only, LEMA_KILLS=n so many instants."""
import os
import random
import shutil
import signal
import time
import unittest

from faulty_run import FAULTY, MUTATING, STEPS, FaultCase
from tiny_run import LEMA

STRIDE = int(os.environ.get("LEMA_FAULT_STRIDE", 1))
INSTANTS = int(os.environ.get("LEMA_KILLS", 40))


class Kill(FaultCase):
    def test_at_every_call_that_changes_something(self):
        calls = self.calls(under=self.folder / "counted")
        mutating = [n for n, (function, _) in enumerate(calls, 1) if function in MUTATING]
        self.assertGreater(len(mutating), 150)

        def work(n):
            output = self.folder / f"run-{n}"
            ended = self.train(output, binary=FAULTY, under=output, fault=f"at={n},do=kill")
            self.assertEqual(ended.code, -signal.SIGKILL, f"call {n}: {ended.log}")
            self.check_folder(output, ended.log, f"killed at call {n} {calls[n - 1]}")
            shutil.rmtree(output)

        self.together(work, mutating[::STRIDE])

    def test_at_random_instants(self):
        start = time.monotonic()
        self.train(self.folder / "timed")
        whole = time.monotonic() - start
        rng = random.Random(7)

        def work(n):
            output = self.folder / f"run-{n}"
            process = self.start_run(output, binary=LEMA)
            time.sleep(rng.uniform(0, whole))
            process.kill()
            log = process.communicate()[1]
            self.check_folder(output, log, f"killed at random, {n}")
            shutil.rmtree(output)
            return process.returncode == -signal.SIGKILL

        killed = self.together(work, range(INSTANTS))
        print(f"{sum(killed)} of {INSTANTS} killed before their end")
        self.assertGreater(2 * sum(killed), len(killed))


if __name__ == "__main__":
    unittest.main()
