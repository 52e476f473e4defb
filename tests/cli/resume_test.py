"""Runs of the real binary on a tiny random model: resumed runs end byte-equal to uninterrupted ones, JSON and TOML give the
same run, signals save and exit as documented, a used folder is refused. Standard library only. LEMA is the binary."""
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

import tiny_folder

LEMA = os.environ["LEMA"]
STEPS = 20


def write_random_model(folder):
    """The byte-token Llama with seeded weights in place of zeros."""
    folder = tiny_folder.write_byte_model(folder)
    rng = random.Random(5)
    tensors = {}
    for name, (dtype, shape) in tiny_folder.llama_tensors(259).items():
        count = 1
        for size in shape:
            count *= size
        centre = 1.0 if "norm" in name else 0.0
        values = struct.pack(f"<{count}f", *(centre + rng.uniform(-0.3, 0.3) for _ in range(count)))
        tensors[name] = (dtype, shape, values)
    tiny_folder.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_rows(path, count=23):
    rng = random.Random(6)
    rows = [{"tokens": [rng.randrange(259) for _ in range(rng.randrange(4, 24))]} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Runs(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_resume_"))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.model = write_random_model(self.folder / "model")
        self.data = write_rows(self.folder / "rows.jsonl")

    def config(self, name="run.json", **changes):
        config = {"model": str(self.model), "output_dir": str(self.folder / "run"),
                  "data": {"train": str(self.data), "eval": str(self.data), "format": "tokens"},
                  "lora": {"rank": 2, "dropout": 0.1}, "optimizer": {"lr": 0.01},
                  "train": {"max_steps": STEPS, "batch_size": 4, "micro_batch_size": 2},
                  "checkpoint": {"every_steps": 5, "keep": 9}}
        config.update(changes)
        path = self.folder / name
        path.write_text(json.dumps(config))
        return path

    def lema(self, *arguments, code=0):
        result = subprocess.run([LEMA, *map(str, arguments)], capture_output=True, text=True)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stderr

    def final(self, run, step=STEPS):
        """What a run ends with, less what names its folder and its start."""
        checkpoint = self.folder / run / f"checkpoint-{step:06}"
        state = json.loads((checkpoint / "state.json").read_text())
        state.pop("run_id")
        metrics = [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]
        steady = [{k: m[k] for k in m if k in ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "eval_loss")}
                  for m in metrics]
        return [(checkpoint / name).read_bytes() for name in ("adapter_model.safetensors", "state.safetensors",
                                                              "adapter_config.json")] + [state, steady]

    def rewind(self, source, target, step):
        """The run folder as a crash right after the checkpoint of `step` would leave it."""
        shutil.copytree(self.folder / source, self.folder / target, symlinks=True)
        for path in (self.folder / target).glob("checkpoint-*"):
            if int(path.name.split("-")[1]) > step:
                shutil.rmtree(path)

    def test_resumed_once_and_twice_ends_byte_equal(self):
        config = self.config()
        self.lema("train", "--config", config)
        want = self.final("run")
        self.assertEqual(len([m for m in want[-1] if "loss" in m]), STEPS)
        self.rewind("run", "once", 10)
        self.lema("train", "--config", config, "--set", f"output_dir={self.folder / 'once'}", "--resume")
        self.assertEqual(self.final("once"), want)
        self.rewind("once", "twice", 15)
        self.lema("train", "--config", config, "--set", f"output_dir={self.folder / 'twice'}", "--resume")
        self.assertEqual(self.final("twice"), want)

    def test_a_damaged_checkpoint_is_passed_over(self):
        config = self.config()
        self.lema("train", "--config", config)
        want = self.final("run")
        self.rewind("run", "damaged", 15)
        victim = self.folder / "damaged" / "checkpoint-000015" / "state.safetensors"
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
        (self.folder / "damaged" / "checkpoint-000010" / "manifest.json").unlink()
        log = self.lema("train", "--config", config, "--set", f"output_dir={self.folder / 'damaged'}", "--resume")
        self.assertIn("checkpoint-000015: passed over", log)
        self.assertIn("at step 5", log)
        self.assertEqual(self.final("damaged"), want)

    def test_json_and_toml_are_the_same_run(self):
        self.lema("train", "--config", self.config())
        toml = self.folder / "run.toml"
        toml.write_text(f'''
model = "{self.model}"
output_dir = "{self.folder / "toml"}"
[data]
train = "{self.data}"
eval = "{self.data}"
format = "tokens"
[lora]
rank = 2
dropout = 0.1
[optimizer]
lr = 0.01
[train]
max_steps = {STEPS}
batch_size = 4
micro_batch_size = 2
[checkpoint]
every_steps = 5
keep = 9
''')
        self.lema("train", "--config", toml)
        self.assertEqual(self.final("toml"), self.final("run"))

    def test_streaming_threads_and_memory_settings_do_not_change_the_run(self):
        self.lema("train", "--config", self.config())
        for name, settings in {"stream": ["memory.residency=stream", "memory.disk=buffered", "threads=1"],
                               "offload": ["memory.activations=offload", "memory.residency=resident"]}.items():
            arguments = [x for s in settings for x in ("--set", s)]
            self.lema("train", "--config", self.config(), "--set", f"output_dir={self.folder / name}", *arguments)
            self.assertEqual(self.final(name), self.final("run"), name)

    def test_used_folder_other_data_and_other_config_are_refused(self):
        config = self.config()
        self.lema("train", "--config", config)
        self.assertIn("--resume", self.lema("train", "--config", config, code=2))
        self.assertIn("another config", self.lema("train", "--config", config, "--set", "optimizer.lr=0.02", "--resume",
                                                  code=2))
        self.data.write_text(self.data.read_text() + json.dumps({"tokens": [1, 2, 3]}) + "\n")
        self.assertIn("another training file", self.lema("train", "--config", config, "--resume", code=2))
        self.assertIn("no complete checkpoint", self.lema("train", "--config", config, "--set",
                                                          f"output_dir={self.folder / 'none'}", "--resume", code=3))

    def test_rotation_keeps_best_and_last(self):
        config = self.config(checkpoint={"every_steps": 2, "keep": 2})
        self.lema("train", "--config", config)
        run = self.folder / "run"
        kept = {p.name for p in run.glob("checkpoint-*")}
        self.assertEqual(os.readlink(run / "last"), f"checkpoint-{STEPS:06}")
        self.assertIn(os.readlink(run / "best"), kept)
        self.assertLessEqual(len(kept), 3)
        self.assertFalse(list(run.glob(".*trash*")) + list(run.glob(".*tmp*")))

    def test_a_signal_saves_and_the_resumed_run_ends_equal(self):
        config = self.config(train={"max_steps": 400, "batch_size": 4, "micro_batch_size": 2},
                             checkpoint={"every_steps": 0, "keep": 2})
        self.lema("train", "--config", config)
        want = self.final("run", 400)
        interrupted = ["--set", f"output_dir={self.folder / 'cut'}"]
        process = subprocess.Popen([LEMA, "train", "--config", str(config), *interrupted], stderr=subprocess.PIPE,
                                   text=True)
        for line in process.stderr:
            if line.startswith("step 3/") or "step 3/" in line:
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        self.assertEqual(process.wait(), 75, rest)
        process.stderr.close()
        self.assertIn("--resume", rest)
        self.lema("train", "--config", config, *interrupted, "--resume")
        self.assertEqual(self.final("cut", 400)[:3], want[:3])
        self.assertEqual([m["loss"] for m in self.final("cut", 400)[4] if "loss" in m],
                         [m["loss"] for m in want[4] if "loss" in m])


if __name__ == "__main__":
    unittest.main()
