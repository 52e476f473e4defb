"""Where weights come from, driven through the binary: disk modes give the same run; a model file that is cut, written to
or replaced under a run ends it with one clear line, or does not touch it. Standard library only."""
import json
import math
import os
import re
import struct
import subprocess
import time
import unittest

import tiny_folder
from checksum_thread import reads_checksum
from process_memory import BOUNDED
from tiny_run import LEMA, RunCase

# Under memory.ram, residency `stream` holds nothing: every block comes from disk again and again.
RING = ["memory.residency=stream", "memory.ram=1GB"]
MODES = {"mapped": [],
         "held-direct": ["memory.disk=direct"],
         "ring-auto": RING,
         "ring-direct": [*RING, "memory.disk=direct", "memory.slots=2", "threads=1"],
         "ring-buffered": [*RING, "memory.disk=buffered", "memory.slots=2"],
         "copied-mapped": ["memory.residency=stream"],
         "copied-buffered": ["memory.residency=stream", "memory.disk=buffered", "memory.slots=3", "threads=1"]}


def arguments(settings):
    return [x for s in settings for x in ("--set", s)]


class DiskModes(RunCase):
    def test_modes_give_the_same_run(self):
        for name, settings in MODES.items():
            log = self.lema("train", "--config", self.config(output_dir=str(self.folder / name)), *arguments(settings))
            self.assertEqual(self.final(name), self.final("mapped"), name)
            plan = json.loads((self.folder / name / "plan.json").read_text())
            disk = name.split("-")[-1]
            self.assertIn(plan["disk"], ("direct", "buffered") if disk == "auto" else (disk.replace("mapped", "mmap"),))
            self.assertNotIn("warn", log)
            steps = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
            for step in steps:
                if "loss" in step:
                    self.assertEqual(step["disk_bytes"] > 0, "ring" in name, name)
                    self.assertGreaterEqual(step["step_ms"], step["stall_ms"])

    def test_a_budget_that_is_too_small_names_one_that_does(self):
        log = self.lema("train", "--config", self.config(), "--set", "memory.ram=1MB", code=4)
        found = re.search(r"memory\.ram is 976\.6 KiB; set it to at least (\d+)", log)
        self.assertTrue(found, log)
        least = int(found[1])
        self.assertFalse((self.folder / "run").exists())
        self.lema("train", "--config", self.config(), "--set", f"memory.ram={least - 1}", code=4)
        self.lema("train", "--config", self.config(), "--set", f"memory.ram={least}")

    def test_mapping_is_refused_under_a_budget(self):
        log = self.lema("train", "--config", self.config(), "--set", "memory.ram=1GB", "--set", "memory.disk=mmap", code=2)
        self.assertRegex(log, r"memory\.disk: .*memory\.ram")

    def test_memory_stays_within_the_budget(self):
        # 201 MB of zeros in a sparse file; a ring of two blocks is 34 MB.
        blocks, wide = 12, 512
        config = tiny_folder.llama_config(259, blocks)
        config.update(hidden_size=wide, intermediate_size=4 * wide, num_attention_heads=8, num_key_value_heads=8,
                      head_dim=64, eos_token_id=256)
        shapes = {name: [wide if n == 8 else 4 * wide if n == 16 else wide if n == 4 else n for n in shape]
                  for name, (_, shape) in tiny_folder.llama_tensors(259, blocks).items()}
        model = tiny_folder.write_byte_model(self.folder / "wide")
        (model / "config.json").write_text(json.dumps(config))
        header, offset = {}, 0
        for name, shape in shapes.items():
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * math.prod(shape)]}
            offset += 4 * math.prod(shape)
        text = json.dumps(header).encode()
        with open(model / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
        command = [LEMA, "train", "--config", self.config(model=str(model), train={"max_steps": 2, "batch_size": 2}),
                   "--set", "memory.ram=120MiB"]
        with open(self.folder / "log", "w") as log:
            process = subprocess.Popen(command, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0, (self.folder / "log").read_text())
        plan = json.loads((self.folder / "run" / "plan.json").read_text())
        planned = plan["process_bytes"] + plan["mapped_bytes"]
        self.assertGreater(offset, 200e6)
        self.assertLessEqual(planned, 120 << 20)
        if BOUNDED:
            self.assertLessEqual(usage.ru_maxrss * 1024, planned)


class ChangedFiles(RunCase):
    def disturbed(self, settings, disturb, is_read=False):
        """A long run whose model file is disturbed after the second step and, with is_read, after the file's checksum; what
        waits for its end gives log and exit code."""
        config = self.config(train={"max_steps": 100000, "batch_size": 4}, checkpoint={"every_steps": 0})
        process = subprocess.Popen([LEMA, "train", "--config", config, *arguments(settings)], stderr=subprocess.PIPE,
                                   text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        for line in process.stderr:
            if re.search("step 2/", line):
                break
        if is_read:
            while reads_checksum(process.pid):
                time.sleep(0.01)
        disturb(self.model / "model.safetensors")
        return process, lambda: (process.stderr.read(), process.wait())

    def test_a_file_that_is_cut_ends_the_run_with_one_line(self):
        for name, settings in MODES.items():
            if "held" in name or name == "copied-buffered":
                continue
            with self.subTest(name):
                self.setUp()
                _, end = self.disturbed(settings, lambda path: os.truncate(path, 3000))
                log, code = end()
                self.assertEqual(code, 3, log)
                self.assertRegex(log.splitlines()[-1], r"model\.safetensors: (has 3000 bytes|ends at byte 3000)")

    def test_a_file_that_is_written_to_ends_the_run(self):
        def scribble(path):
            with open(path, "r+b") as file:
                file.seek(-4, os.SEEK_END)
                file.write(b"\1\2\3\4")

        _, end = self.disturbed([], scribble)
        log, code = end()
        self.assertEqual(code, 3, log)
        self.assertRegex(log.splitlines()[-1], r"model\.safetensors: was written to")

    def test_a_file_that_is_replaced_or_read_for_good_does_not_matter(self):
        def replace(path):
            path.with_name("other").write_bytes(b"nothing")
            path.with_name("other").rename(path)

        for settings, disturb in (([], replace), (RING, replace),
                                  (MODES["held-direct"], lambda path: os.truncate(path, 3000))):
            self.setUp()
            process, end = self.disturbed(settings, disturb, is_read=True)
            seen = []
            for line in process.stderr:
                seen.append(line)
                if re.search(r"step 1\d\d/", line):
                    break
            process.terminate()
            log, code = end()
            self.assertEqual(code, 75, "".join(seen[-3:]) + log)


if __name__ == "__main__":
    unittest.main()
