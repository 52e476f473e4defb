"""Training runs of the real binary on a tiny random model. Base of the Python tests of `lema train`. Standard library
only; LEMA is the binary. LEMA_RUN_DEVICE=cuda runs them on a GPU."""
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

import tiny_folder

LEMA = os.environ["LEMA"]
ON_GPU = os.environ.get("LEMA_RUN_DEVICE") == "cuda"
STEPS = 20


def write_random_model(folder, blocks=1):
    """The byte-token Llama with seeded weights in place of zeros."""
    folder = tiny_folder.write_byte_model(folder, num_hidden_layers=blocks)
    rng = random.Random(5)
    tensors = {}
    for name, (dtype, shape) in tiny_folder.llama_tensors(259, blocks).items():
        count = 1
        for size in shape:
            count *= size
        centre = 1.0 if "norm" in name else 0.0
        values = struct.pack(f"<{count}f", *(centre + rng.uniform(-0.3, 0.3) for _ in range(count)))
        tensors[name] = (dtype, shape, values)
    tiny_folder.write_safetensors(folder / "model.safetensors", tensors)
    return folder


def write_rows(path, count=23, seed=6):
    rng = random.Random(seed)
    rows = [{"tokens": [rng.randrange(259) for _ in range(rng.randrange(4, 24))]} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class RunCase(unittest.TestCase):
    place = None  # where its files go: the system's folder for them

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_resume_", dir=self.place))
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.model = write_random_model(self.folder / "model")
        self.data = write_rows(self.folder / "rows.jsonl")

    def config(self, name="run.json", **changes):
        config = {"model": str(self.model), "output_dir": str(self.folder / "run"),
                  "data": {"train": str(self.data), "eval": str(self.data), "format": "tokens"},
                  "lora": {"rank": 2, "dropout": 0.1}, "optimizer": {"lr": 0.01},
                  "train": {"max_steps": STEPS, "batch_size": 4, "micro_batch_size": 2},
                  "checkpoint": {"every_steps": 5, "keep": 9}}
        config.update({"device": "cuda"} if ON_GPU else {}, **changes)
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
