"""Where weights come from, driven through the binary: disk modes give the same run; a model file that is cut, written to
or replaced under a run ends it with one clear line, or does not touch it. Standard library only."""
import json
import os
import re
import subprocess
import unittest

from tiny_run import LEMA, RunCase

HELD = ["memory.disk=direct"]
MODES = {"mapped": [], "held": HELD, "copied": ["memory.residency=stream"],
         "copied-held": ["memory.residency=stream", "memory.disk=buffered", "memory.slots=3", "threads=1"]}


def arguments(settings):
    return [x for s in settings for x in ("--set", s)]


class DiskModes(RunCase):
    def test_modes_give_the_same_run(self):
        for name, settings in MODES.items():
            log = self.lema("train", "--config", self.config(output_dir=str(self.folder / name)), *arguments(settings))
            self.assertEqual(self.final(name), self.final("mapped"), name)
            plan = json.loads((self.folder / name / "plan.json").read_text())
            self.assertEqual(plan["disk"], "direct" if settings == HELD else "buffered" if "held" in name else "mmap")
            self.assertNotIn("warn", log)


class ChangedFiles(RunCase):
    def disturbed(self, settings, disturb):
        """Exit code and last line of a long run whose model file is disturbed after the second step."""
        config = self.config(train={"max_steps": 100000, "batch_size": 4}, checkpoint={"every_steps": 0})
        process = subprocess.Popen([LEMA, "train", "--config", config, *arguments(settings)], stderr=subprocess.PIPE,
                                   text=True)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.kill)
        for line in process.stderr:
            if re.search("step 2/", line):
                break
        disturb(self.model / "model.safetensors")
        return process, lambda: (process.stderr.read(), process.wait())

    def test_a_file_that_is_cut_ends_the_run_with_one_line(self):
        for name, settings in MODES.items():
            if "held" in name:
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

        for settings, disturb in (([], replace), (HELD, lambda path: os.truncate(path, 3000))):
            self.setUp()
            process, end = self.disturbed(settings, disturb)
            for line in process.stderr:
                if re.search(r"step 1\d\d/", line):
                    break
            process.terminate()
            log, code = end()
            self.assertEqual(code, 75, log)


if __name__ == "__main__":
    unittest.main()
