"""Where a run computes: `auto` without a GPU, and what a binary with the CUDA backend asks of a machine that has neither
driver nor GPU. GPUs are hidden, so that the tests say the same everywhere. Standard library only."""
import os
import re
import subprocess
import unittest

from tiny_run import LEMA, RunCase

BACKENDS = subprocess.run([LEMA, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[2]
HAS_CUDA = "cuda" in BACKENDS


class NoGpu(RunCase):
    def setUp(self):
        super().setUp()
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.addCleanup(os.environ.pop, "CUDA_VISIBLE_DEVICES")

    def train(self, device, **expected):
        return self.lema("train", "--config", self.config(device=device, output_dir=str(self.folder / device)),
                         **expected)

    def test_auto_trains_on_the_cpu_and_says_so(self):
        said = self.train("auto")
        notice = r"device cuda:0: this machine has (no NVIDIA driver|0 CUDA GPUs): the CPU is used"
        self.assertEqual(re.search(notice, said) is not None, HAS_CUDA, said)
        self.assertNotRegex(self.train("cpu"), notice)
        # adapter and moments, and what the steps measured; state.json names the device that was asked for
        *auto, _, auto_steps = self.final("auto")
        *cpu, _, cpu_steps = self.final("cpu")
        self.assertEqual((auto, auto_steps), (cpu, cpu_steps))

    def test_cuda_is_refused(self):
        for name, number in ("cuda", 0), ("cuda:0", 0), ("cuda:12", 12):
            said = self.train(name, code=2)
            self.assertIn(f"device cuda:{number}: this ", said)
            self.assertRegex(said, "no NVIDIA driver|0 CUDA GPUs" if HAS_CUDA else "built without CUDA")
        for name in "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "cpu:0":
            self.assertIn("expected one of auto, cpu, cuda, cuda:N", self.train(name, code=2))
            self.lema("bench", "--device", name, code=2)

    def test_f16_is_for_a_gpu(self):
        config = self.config(device="cpu", compute="f16")
        self.assertIn("compute f16: a GPU only", self.lema("train", "--config", config, code=2))

    def test_the_binary_starts_without_the_libraries_of_nvidia(self):
        libraries = subprocess.run(["ldd", LEMA], capture_output=True, text=True, check=True).stdout
        self.assertIn("libc.so", libraries)
        for name in ("cuda", "cudart", "cublas", "nvidia"):
            self.assertNotIn(f"lib{name}", libraries)


if __name__ == "__main__":
    unittest.main()
