"""NaN and infinities in base weights, rows, gradients, values and moments: never applied, never saved; exit 5 names step,
micro-batch and row, and --rows shows that row again; what a file holds is refused by name. Standard library only."""
import json
import math
import pathlib
import re
import shutil
import struct
import unittest

import tiny_folder
from faulty_run import STEPS, FaultCase
from run_lock_test import edit
from tiny_run import LEMA

VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plant(path, tensor, value, index=0):
    """Writes one F32 element of a tensor of a safetensors file."""
    data = bytearray(path.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    begin = json.loads(data[8:8 + length])[tensor]["data_offsets"][0] + 8 + length + 4 * index
    data[begin:begin + 4] = struct.pack("<f", value)
    path.write_bytes(data)


class NonFinite(FaultCase):
    def finite(self, output):
        """Whether every number of every checkpoint is finite."""
        for path in pathlib.Path(output).glob("checkpoint-*/*.safetensors"):
            data = path.read_bytes()
            body = data[8 + struct.unpack("<Q", data[:8])[0]:]
            if not all(math.isfinite(x) for x in struct.unpack(f"<{len(body) // 4}f", body)):
                return False
        return True

    def refused(self, output, saying, *settings, code=5, more=()):
        ended = self.train(output, *settings, more=more)
        self.assertEqual(ended.code, code, ended.log)
        self.assertRegex(ended.log.strip().splitlines()[-1], saying)
        self.assertTrue(self.finite(output), "not finite, and saved")
        return ended

    def test_in_base_weights(self):
        model = self.model / "model.safetensors"
        sound = model.read_bytes()
        tensors = [t for t in tiny_folder.llama_tensors(259) if "embed" not in t]
        self.assertEqual(len(tensors), 10, tensors)

        for tensor in tensors:
            for name, value in VALUES.items():
                plant(model, tensor, value)
                output = self.folder / f"{tensor}{name}"
                ended = self.refused(output, r"step 1: loss .*(nan|inf).* micro-batch 1.*rows? .*rows.jsonl:\d+.*nothing was updated")
                self.assertNotIn("saved", re.sub("nothing was saved", "", ended.log))
                shutil.rmtree(output)
        model.write_bytes(sound)

    def test_a_row_is_named_and_shown_again(self):
        """One row holds a token whose embedding is not finite: the run stops at its step and names it alone."""
        rows = [json.loads(line)["tokens"] for line in self.data.read_text().splitlines()]
        rows = [[t if t != 7 else 8 for t in row] for row in rows]
        config = json.loads((self.model / "config.json").read_text())
        for bad, where in ((5, 0), (20, 1), (11, -2)):
            changed = [list(row) for row in rows]
            changed[bad][where] = 7
            self.data.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in changed))
            tiny_folder.poison_token(self.model, 7)
            output = self.folder / f"run-{bad}"
            ended = self.refused(output, rf"step \d+: loss -?nan.* micro-batch [12], row .*rows.jsonl:{bad + 1}; .*--rows {bad}; ",
                                 "train.micro_batch_size=2")
            resume = ["--resume"] if self.saved(output) else []
            process = self.start([LEMA, "train", "--config", self.json, "--set", f"output_dir={output}", "--set",
                                  "train.micro_batch_size=2", "--rows", f"{bad},{(bad + 1) % 23}", *resume])
            process.communicate()
            self.assertEqual(process.returncode, 0)
            again = self.train(output, "train.micro_batch_size=2", more=["--resume"] if resume else [])
            self.assertEqual(again.code, 5)
            self.assertEqual(ended.log.split("step")[-1], again.log.split("step")[-1])
            (self.model / "config.json").write_text(json.dumps(config))

    def test_rows_are_shown_as_json(self):
        import subprocess
        done = subprocess.run([LEMA, "train", "--config", self.json, "--rows", "3,0"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([r["row"] for r in rows], [3, 0])
        self.assertTrue(all(r["loss"] > 0 and r["grad_norm"] > 0 for r in rows))
        self.assertTrue(rows[0]["place"].endswith("rows.jsonl:4"))
        self.assertFalse((self.folder / "run").exists())
        done = subprocess.run([LEMA, "train", "--config", self.json, "--rows", "23"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2, done.stderr)

    def test_in_gradients(self):
        """An adapter whose scale and A are so large that the gradient of B overflows, while B is zero and the loss is what
        it was."""
        begin = self.folder / "begin"
        first = self.folder / "first"
        self.assertEqual(self.train(first, "optimizer.lr=1e-30", "train.max_steps=1").code, 0)
        shutil.copytree(first / "checkpoint-000001", begin)
        config = json.loads(self.json.read_text())
        del config["lora"]
        self.json.write_text(json.dumps(config))
        adapter = json.loads((begin / "adapter_config.json").read_text())
        (begin / "adapter_config.json").write_text(json.dumps({**adapter, "lora_alpha": 1e9}))
        path = begin / "adapter_model.safetensors"
        data = path.read_bytes()
        header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
        names = [n for n in header if n != "__metadata__"]
        for tensor in names:
            if "lora_B" in tensor:
                for index in range(math.prod(header[tensor]["shape"])):
                    plant(path, tensor, 0.0, index)
        sound = path.read_bytes()
        for n, tensor in enumerate(t for t in names if "lora_A" in t):
            for value in (1e17, -1e18):
                plant(path, tensor, value)
                output = self.folder / f"g{n}{value}"
                self.refused(output, r"step 1: loss [\d.]+, gradient norm -?(inf|nan);", f"lora.init_from={begin}")
                path.write_bytes(sound)

    def test_in_files(self):
        """Adapter and moments of a checkpoint with sums that hold, and an adapter to start from."""
        output = self.folder / "run"
        for name, value in VALUES.items():
            for file, tensor in (("state.safetensors", "moment1"), ("state.safetensors", "moment2"),
                                 ("adapter_model.safetensors", None)):
                shutil.rmtree(output, ignore_errors=True)
                shutil.copytree(self.whole, output, symlinks=True)
                checkpoint = output / "checkpoint-000006"

                def change(data, file=file, tensor=tensor, value=value):
                    path = self.folder / "edited"
                    path.write_bytes(data)
                    header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
                    plant(path, tensor or sorted(n for n in header if n != "__metadata__")[0], value, 3)
                    return path.read_bytes()

                edit(checkpoint, file, change)
                before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
                ended = self.train(output, "train.max_steps=8", more=["--resume", "--accept-changed", "config"])
                self.assertEqual(ended.code, 3, ended.log)
                self.assertRegex(ended.log, rf"{file}.*element 3.* is -?{name.strip('-')}")
                self.assertEqual({p: p.read_bytes() for p in output.rglob("*") if p.is_file()}, before)

    def test_weights_that_overflow_are_not_saved(self):
        output = self.folder / "run"
        for lr in ("100", "90", "80"):
            ended = self.train(output, f"optimizer.lr={lr}", "optimizer.clip=0", "optimizer.weight_decay=100",
                               "train.max_steps=200", "schedule.name=constant", "schedule.warmup=0")
            self.assertEqual(ended.code, 5, ended.log)
            self.assertTrue(self.finite(output))
            shutil.rmtree(output)

    def test_steps_are_left_out_where_that_is_asked_for(self):
        rows = [json.loads(line)["tokens"] for line in self.data.read_text().splitlines()]
        rows = [[t if t != 7 else 8 for t in row] for row in rows]
        rows[5][0] = 7
        self.data.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
        tiny_folder.poison_token(self.model, 7)
        output = self.folder / "run"
        ended = self.train(output, "guard.nonfinite=skip", "train.epochs=2", "train.max_steps=0")
        self.assertEqual(ended.code, 0, ended.log)
        self.assertEqual(len(re.findall(r"step \d+: loss -?nan, gradient norm -?nan: no update", ended.log)), 2)
        self.assertTrue(self.finite(output))
        metrics = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(sum(m["loss"] is None for m in metrics), 2)
        # A resumed run counts on.
        self.assertEqual(json.loads((output / "last" / "state.json").read_text())["guard"]["skipped"], 2)
        shutil.rmtree(output)
        ended = self.train(output, "guard.nonfinite=skip", "guard.max_skips=0", "train.epochs=2", "train.max_steps=0")
        self.assertEqual(ended.code, 5, ended.log)
        self.assertIn("guard.max_skips is 0", ended.log)


if __name__ == "__main__":
    unittest.main()
