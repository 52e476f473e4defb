"""Where a run computes: `auto` without a GPU, and what a binary with the CUDA backend asks of a machine that has neither
driver nor GPU. GPUs are hidden, so that the tests say the same everywhere. Standard library only."""
import os
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
        notice = "this machine has 0 CUDA GPUs: the CPU is used"
        self.assertEqual(notice in said, HAS_CUDA, said)
        self.assertNotIn(notice, self.train("cpu"))
        # adapter and moments, and what the steps measured; state.json names the device that was asked for
        *auto, _, auto_steps = self.final("auto")
        *cpu, _, cpu_steps = self.final("cpu")
        self.assertEqual((auto, auto_steps), (cpu, cpu_steps))

    def test_cuda_is_refused(self):
        said = self.train("cuda", code=2)
        self.assertIn("this machine has 0 CUDA GPUs" if HAS_CUDA else "built without CUDA", said)

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
