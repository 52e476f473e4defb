"""Standard streams that fail: the documented exit codes all the same. Standard library only; LEMA is the
binary."""
import os
import signal
import subprocess
import time
import unittest

from tiny_run import LEMA, RunCase


def broken_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


ERRORS = {"full": lambda: os.open("/dev/full", os.O_WRONLY), "closed": lambda: None,
          "a pipe that nobody reads": broken_pipe}


class StandardStreams(RunCase):
    def start(self, *arguments, errors=lambda: None, closed=(), output=subprocess.DEVNULL):
        """`closed`: descriptors that it begins without, 2 where `errors` makes none."""
        fd = errors()
        shut = [*closed, *([2] if fd is None else [])]
        process = subprocess.Popen([LEMA, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=output, stderr=fd,
                                   preexec_fn=lambda: [os.close(n) for n in shut])
        if fd is not None:
            os.close(fd)
        return process

    def wait_for_step_3(self, process):
        metrics = self.folder / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            self.assertIsNone(process.poll())
            time.sleep(0.01)

    def endless(self):
        return self.config(train={"max_steps": 100000, "batch_size": 4}, checkpoint={"every_steps": 0})

    def test_an_exit_code_needs_no_standard_error(self):
        for what, errors in ERRORS.items():
            with self.subTest(what), open("/dev/full", "wb") as full:
                self.assertEqual(self.start("frobnicate", errors=errors).wait(), 2)
                self.assertEqual(self.start("inspect", self.folder / "none", errors=errors).wait(), 3)
                self.assertEqual(self.start("inspect", self.model, errors=errors, output=full).wait(), 74)
                schema = self.start("train", "--print-schema", errors=errors, output=full)  # more than a buffer
                self.assertEqual(schema.wait(), 74)
                run = self.start("train", "--config", self.endless(), errors=errors)
                self.wait_for_step_3(run)
                run.send_signal(signal.SIGTERM)
                self.assertEqual(run.wait(), 75)
                subprocess.run(["rm", "-r", self.folder / "run"], check=True)

    def test_no_file_takes_the_place_of_a_closed_stream(self):
        run = self.start("train", "--config", self.endless(), closed=[0, 1])
        self.wait_for_step_3(run)
        streams = [os.readlink(f"/proc/{run.pid}/fd/{n}") for n in range(3)]
        lock = (self.folder / "run" / ".lock").read_text()
        run.send_signal(signal.SIGTERM)
        self.assertEqual(run.wait(), 75)
        self.assertEqual(streams, ["/dev/null"] * 3)
        self.assertRegex(lock, r"^process \d+ on .*\n$")
        closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", LEMA, "inspect", self.model], stderr=subprocess.PIPE)
        self.assertEqual(closed.returncode, 74, closed.stderr)


if __name__ == "__main__":
    unittest.main()
