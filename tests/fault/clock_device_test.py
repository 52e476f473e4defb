"""Clocks that jump or stand still, which no result may depend on, and a device that is lost at each of its calls: exit 1
with what failed, the last save whole, the resumed run exact."""
import json
import math
import os
import unittest

from faulty_run import FAULTY, STEPS, FaultCase

STRIDE = int(os.environ.get("LEMA_FAULT_STRIDE", 3))


class Clock(FaultCase):
    def test_no_result_depends_on_the_clock(self):
        for fault in ("wild", "still"):
            output = self.folder / fault
            ended = self.train(output, binary=FAULTY, clock=fault)
            self.assertEqual(ended.code, 0, ended.log)
            self.check_end(output, fault)
            for line in (output / "metrics.jsonl").read_text().splitlines():
                for value in json.loads(line, parse_constant=lambda name: self.fail(f"{fault}: {name}")).values():
                    self.assertTrue(value is None or math.isfinite(value), f"{fault}: {line}")
            for process, code in ((self.train(output, binary=FAULTY, clock=fault), 2),
                                  (self.train(output, binary=FAULTY, more=["--resume"], clock=fault), 0)):
                self.assertEqual(process.code, code, process.log)


class Device(FaultCase):
    def test_a_device_that_is_lost_at_each_of_its_calls(self):
        count = self.folder / "count"
        self.assertEqual(self.train(self.folder / "counted", binary=FAULTY, device_log=count).code, 0)
        calls = max(map(int, count.read_text().split()))
        self.assertGreater(calls, 50)

        def work(n):
            output = self.folder / f"run-{n}"
            ended = self.train(output, binary=FAULTY, device=f"at={n}")
            self.assertEqual(ended.code, 1, f"call {n}: {ended.log}")
            self.assertRegex(ended.log.strip().splitlines()[-1], "^lema: error: .*the device is lost")
            if self.acknowledged(ended.log):
                self.assertIn(f"checkpoint-{self.acknowledged(ended.log):06} stands", ended.log)
            self.check_folder(output, ended.log, f"device lost at call {n}")
            return bool(self.acknowledged(ended.log))

        stood = self.together(work, range(1, calls + 1, STRIDE))
        self.assertGreater(sum(stood), len(stood) // 4)
        print(f"{len(stood)} of {calls} calls, {sum(stood)} with a save before")


if __name__ == "__main__":
    unittest.main()
