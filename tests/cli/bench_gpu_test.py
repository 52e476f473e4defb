"""scripts/bench_gpu.py fails where a row does: a stand-in for lema answers with the metrics that a case asks for, and
no GPU is looked at. Standard library only."""
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import sys
import unittest
import unittest.mock

from stand_in import StandInCase

PATH = pathlib.Path(os.environ["LEMA_SOURCE"], "scripts", "bench_gpu.py")
STAND_IN = """#!{python}
import json, os, pathlib, sys, time
settings = dict(a.split("=", 1) for a in sys.argv[2:] if a != "--set")
placement = ("half" if "memory.activations" in settings else "stream") if "memory.vram" in settings else "resident"
wish = json.loads(os.environ["WISH"]).get(placement, {{}})
if "error" in wish:
    sys.exit(wish["error"])
out = pathlib.Path(settings["output_dir"])
out.mkdir()
steps = int(settings["train.max_steps"])
device, blocks = 1 << 20, int(settings["model"].rsplit("_")[-1])
there = dict(stream=0, half=blocks // 2, resident=blocks)[placement]
plan = {{"device_bytes": device, "pinned_bytes": 1, "host_bytes": 1, "kept_blocks": wish.get("kept", 0),
        "offload_boundaries": False, "in_place": False, "ram_slots": 0,
        "resident_units": list(range(wish.get("there", there)))}}
(out / "plan.json").write_text(json.dumps(plan))
with open(out / "metrics.jsonl", "w") as lines:
    for step in range(steps):
        m = {{"step_ms": 1, "vram_bytes": device * wish.get("ratio", 1) + step * wish.get("growth", 0), "h2d_bytes": 0,
             "disk_bytes": 0, "loss": 2 / (step + 1),
             "tokens": wish.get("tokens", int(settings["train.batch_size"]) * int(settings["data.max_tokens"]))}}
        if step == 1:
            m["loss"] = wish.get("loss", m["loss"])
        m["step"] = step + 1
        lines.write(json.dumps(m) + "\\n")
        if "log.trace" in settings:
            lines.flush()
            time.sleep(0.05)
if "log.trace" in settings:  # two copies of 1 GB a step, in 20 and 25 ms, 5 ms apart
    copies = [dict(ph="X", tid=1, ts=1e6 * step + at, dur=dur, args=dict(step=step, bytes=10**9))
              for step in range(1, steps + 1) for at, dur in ((0, 20000), (25000, 25000))]
    pathlib.Path(settings["log.trace"]).write_text(json.dumps(copies))
"""


class Copies:
    __enter__ = __exit__ = lambda self, *_: self

    def rate(self, _):
        return 50e9


class Memory:
    def stop(self):
        return 0


def difference(f32=1e-5, bf16=4e-2, own=4e-2, cpu=1e-5):
    values = {("lema f32", "PEFT f32"): f32, ("lema bf16", "PEFT f32"): bf16, ("PEFT bf16", "PEFT f32"): own,
              ("lema f32", "CPU f32"): cpu}
    return {pair: {"a": 1e-6, "b": value} for pair, value in values.items()}


class BenchGpu(StandInCase):
    STAND_IN = STAND_IN

    def setUp(self):
        super().setUp()
        spec = importlib.util.spec_from_file_location("bench_gpu", PATH)
        self.bench = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.bench)
        self.bench.DriverMemory = Memory
        self.bench.copy_rate = lambda: 1e9
        self.models = []
        self.bench.write_model = lambda folder, shape, _: self.models.append((folder.name, shape.blocks))

    def run_bench(self, wish, *more, code):
        arguments = ["bench_gpu.py", "--lema", str(self.lema), "--folder", str(self.folder), "--rows", "1x4", "2x4",
                     "--vram", "1x4=1GB", "2x4=1GB", "--steps", "3", *more]
        out = io.StringIO()
        with unittest.mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(out), \
                unittest.mock.patch.dict(os.environ, WISH=json.dumps(wish)), self.assertRaises(SystemExit) as end:
            self.bench.main()
        self.assertEqual(end.exception.code, code, out.getvalue())
        return out.getvalue()

    def test_a_sound_row_passes_and_says_that_gradients_were_not_checked(self):
        out = self.run_bench({}, "--no-gradients", "--blocks", "2", code=0)
        self.assertIn("0 failed; gradients were not checked", out)
        self.assertEqual(self.models, [("model_2", 2)])

    def test_rows_of_every_length_may_not_grow(self):
        out = self.run_bench({}, "--no-gradients", "--mixed", "2x16", code=0)
        self.assertIn("2x2..16: 200 steps", out)
        out = self.run_bench({"resident": {"growth": 1}}, "--no-gradients", "--mixed", "2x16", code=1)
        self.assertIn("2x2..16: the driver's count grew by 199 bytes", out)

    def test_steps_are_held_to_plain_copies_around_them(self):
        with unittest.mock.patch.object(self.bench, "PlainCopies", Copies):
            out = self.run_bench({}, "--no-gradients", "--steps", "8", "--bus", "1x4", code=0)
        self.assertIn("copies from first to last at 40.00 (40.00 to 40.00) GB/s, 0.8000 (0.8000 to 0.8000) of the plain "
                      "rate around them, 5.00 ms of them idle", out)
        self.assertIn("0.0019 (0.0019 to 0.0019) of 26 GB at the plain rate", out)  # 1 ms of 520
        self.assertIn("0.0250 (0.0250 to 0.0250) of its own bytes", out)  # 1 ms of 40

    def test_a_failure_is_said_and_told_by_the_exit_code(self):
        for wish, said in (({"half": {"loss": 2 / 2 + 1e-15}}, "1x4 half: losses"),
                           ({"resident": {"loss": float("nan")}}, "1x4 resident: losses"),
                           ({"stream": {"loss": None}}, "1x4 stream: losses"),
                           ({"half": {"ratio": 1.03}}, "1x4 half: the driver counts 1.03"),
                           ({"half": {"there": 15}}, "1x4 half: 15 of 32 blocks are resident"),
                           ({"resident": {"there": 31}}, "1x4 resident: 31 of 32 blocks are resident"),
                           ({"stream": {"tokens": 3}}, "1x4 stream: steps of [3] tokens, not 4"),
                           ({"resident": {"growth": 1}}, "1x4 resident: the driver's count grew by 2 bytes"),
                           ({"resident": {"error": "no room"}}, "1x4 resident: exit 1: no room")):
            with self.subTest(said):
                out = self.run_bench(wish, "--no-gradients", code=1)
                self.assertIn(f"FAILED: {said}", out)
                self.assertIn("2x4      stream", out)  # the others are run all the same

    def test_nothing_is_timed_beside_a_streamed_run_that_failed(self):
        out = self.run_bench({"stream": {"error": "no room"}}, "--no-gradients", code=1)
        self.assertIn("6 failed", out)
        self.assertIn("1x4 half: not run", out)

    def test_only_what_keeps_the_same_activations_is_compared(self):
        out = self.run_bench({"stream": {"kept": 1}}, "--no-gradients", "--blocks", "2", code=1)
        self.assertIn("1x4 resident: not run, for the streamed run keeps some blocks' activations", out)

    def test_wishes_that_cannot_be_met_are_refused(self):
        with contextlib.redirect_stderr(io.StringIO()):
            self.run_bench({}, "--steps", "2", code=2)
            self.run_bench({}, "--placements", "half", code=2)
            self.run_bench({}, "--bus", "1x4", "--blocks", "2", code=2)
            self.run_bench({}, "--disk", "1x4", code=2)

    def test_gradients_come_first_unless_they_are_not_wanted(self):
        with unittest.mock.patch.object(self.bench, "check_gradients") as check:
            self.run_bench({}, "--blocks", "2", code=0)
            self.assertEqual(check.call_args.args[1], "1x512")
            self.assertEqual(self.models, [("model_4", 4), ("model_2", 2)])
            self.run_bench({}, "--no-gradients", code=0)
            self.assertEqual(check.call_count, 1)

    def test_every_gradient_has_its_bound(self):
        losses = dict.fromkeys(("lema f32", "PEFT f32", "lema bf16", "PEFT bf16", "CPU f32"), 8.0)
        missing = difference()
        del missing["PEFT bf16", "PEFT f32"]
        no_peft = {pair: errors for pair, errors in difference(cpu=2e-4).items() if pair[1] == "CPU f32"}
        for differences, other_losses, count in (
                (difference(), {}, 0), (difference(f32=2e-4), {}, 1), (difference(f32=float("nan")), {}, 1),
                (difference(cpu=2e-4), {}, 1), (difference(), {"CPU f32": 8.001}, 1),
                (difference(bf16=9e-2), {}, 1), (difference(bf16=float("nan")), {}, 1), (missing, {}, 1), (no_peft, {}, 3),
                (difference(), {"lema f32": 8.001}, 2), (difference(), {"lema bf16": float("nan")}, 1)):
            self.bench.failures.clear()
            with self.subTest((differences, other_losses)), contextlib.redirect_stdout(io.StringIO()):
                self.bench.judge_gradients("1x4", losses | other_losses, differences)
                self.assertEqual(len(self.bench.failures), count, self.bench.failures)


if __name__ == "__main__":
    unittest.main()
