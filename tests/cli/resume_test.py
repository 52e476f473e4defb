"""Runs of the real binary on a tiny random model: resumed runs end byte-equal to uninterrupted ones, JSON and TOML give the
same run, signals save and exit as documented, a used folder is refused. Standard library only. LEMA is the binary."""
import json
import os
import signal
import subprocess
import unittest

from tiny_run import LEMA, STEPS, RunCase


class Runs(RunCase):
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

    def test_every_method_resumes_byte_equal(self):
        config = self.config(lora={"rank": 2, "dropout": 0.1, "rslora": True, "dora": True, "plus_ratio": 4,
                                   "rank_pattern": {"q_proj": 3}, "layers": ["last:1"],
                                   "modules_to_save": ["embed_tokens", "lm_head"]})
        self.lema("train", "--config", config)
        want = self.final("run")
        self.rewind("run", "again", 10)
        self.lema("train", "--config", config, "--set", f"output_dir={self.folder / 'again'}", "--set",
                  "memory.residency=stream", "--resume")
        self.assertEqual(self.final("again"), want)

    def test_patterns_keep_their_order_through_a_checkpoint(self):
        """Sorted, the second would decide about q_proj too."""
        config = self.config(lora={"rank": 2, "rank_pattern": {"self_attn.q_proj": 3, "[qv]_proj": 1}})
        self.lema("train", "--config", config)
        want = self.final("run")
        self.rewind("run", "again", 10)
        self.lema("train", "--config", config, "--set", f"output_dir={self.folder / 'again'}", "--resume")
        self.assertEqual(self.final("again"), want)

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
        self.assertRegex(self.lema("train", "--config", config, "--resume", code=2),
                         r"another data set \(data.train\): .*--accept-changed data")
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
