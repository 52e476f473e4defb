"""One run killed and resumed again and again, each time somewhere else: it ends byte-equal to the run that nothing
disturbed, and no life takes more memory or descriptors than the first ones, however long its log is. LEMA_SOAK=200
lives by hand."""
import json
import os
import pathlib
import random
import signal
import time
import unittest

from faulty_run import FaultCase
from process_memory import BOUNDED
from tiny_run import LEMA

LIVES = int(os.environ.get("LEMA_SOAK", 20))
STEPS = 150 * LIVES


class Soak(FaultCase):
    def memory_and_descriptors(self, process):
        """Peak of resident memory in KiB and the number of open descriptors; None once it has ended."""
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
        except OSError:
            return None
        peak = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
        return (peak[0], descriptors) if peak else None

    def test_killed_and_resumed(self):
        settings = [f"train.max_steps={STEPS}", "checkpoint.every_steps=20", "checkpoint.keep=2", "log.every_steps=1000000"]
        whole, output = self.folder / "long", self.folder / "run"
        self.assertEqual(self.train(whole, *settings).code, 0)
        rng, measured, lives = random.Random(11), [], 0
        while lives < LIVES:
            has_one = any((p / "manifest.json").exists() for p in output.glob("checkpoint-*"))
            process = self.start_run(output, *settings, binary=LEMA, more=["--resume"] if has_one else [])
            # Until it has saved once more, and then a moment on.
            before, saved = max(self.saved(output), default=0), False
            while process.poll() is None and not saved:
                time.sleep(0.002)
                saved = max(self.saved(output), default=0) >= before + 60
            time.sleep(rng.uniform(0, 0.03))
            seen = self.memory_and_descriptors(process)
            process.send_signal(signal.SIGKILL)
            log = process.communicate()[1]
            self.assertEqual(process.returncode, -signal.SIGKILL, f"life {lives + 1} ended too soon: {log[-2000:]}")
            self.assertIsNotNone(seen)
            measured.append(seen)
            lives += 1
        ended = self.train(output, *settings, more=["--resume"])
        self.assertEqual(ended.code, 0, ended.log)
        last = f"checkpoint-{STEPS:06}"
        for name in ("adapter_model.safetensors", "state.safetensors"):
            self.assertEqual((output / last / name).read_bytes(), (whole / last / name).read_bytes(), name)
        self.assertEqual([p.name for p in output.iterdir() if p.name.startswith(".")], [])
        with open(output / "metrics.jsonl") as log:
            self.assertEqual([json.loads(line)["step"] for line in log], list(range(1, STEPS + 1)))
        peaks, descriptors = zip(*measured)
        early = measured[:max(3, LIVES // 5)]
        if BOUNDED:
            self.assertLessEqual(max(peaks), 1.05 * max(p for p, _ in early), peaks)
        self.assertLessEqual(max(descriptors), max(d for _, d in early) + 2, descriptors)
        print(f"{lives} kills; peak {min(peaks)} to {max(peaks)} KiB, {min(descriptors)} to {max(descriptors)} descriptors")


if __name__ == "__main__":
    unittest.main()
