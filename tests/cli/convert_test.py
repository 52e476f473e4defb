"""lema convert and lema merge as processes: memory on 7B-shaped tensors, kills and signals at any moment, byte-equal
repetition, exit codes. Standard library only; LEMA is the binary. LEMA_CONVERT_BLOCKS=32 runs the whole 7B shape (writes
13.5 GB of zeros)."""
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import tiny_folder
from process_memory import BOUNDED

LEMA = os.environ["LEMA"]
BLOCKS = int(os.environ.get("LEMA_CONVERT_BLOCKS", "1"))
MIB = 1 << 20
C, F, V = 4096, 11008, 32000


def llama_7b_shapes(blocks):
    shapes = {"model.embed_tokens.weight": [V, C], "model.norm.weight": [C], "lm_head.weight": [V, C]}
    for block in range(blocks):
        base = f"model.layers.{block}."
        shapes |= {base + f"self_attn.{m}_proj.weight": [C, C] for m in "qkvo"}
        shapes |= {base + f"mlp.{m}_proj.weight": [F, C] for m in ("gate", "up")}
        shapes |= {base + "mlp.down_proj.weight": [C, F], base + "input_layernorm.weight": [C],
                   base + "post_attention_layernorm.weight": [C]}
    return shapes


def write_sparse(path, shapes):
    """A BF16 file whose data is a hole."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset


def write_7b(folder, blocks, shards=3):
    folder.mkdir()
    config = tiny_folder.llama_config(V, blocks) | {
        "hidden_size": C, "intermediate_size": F, "num_attention_heads": 32, "num_key_value_heads": 32,
        "head_dim": 128, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = sorted(llama_7b_shapes(blocks).items())
    weight_map, total = {}, 0
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(shapes[shard::shards])
        total += write_sparse(folder / name, part)
        weight_map |= {tensor: name for tensor in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def write_adapter(folder, rank=8):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "target_modules": ["down_proj"]}))
    module = "base_model.model.model.layers.0.mlp.down_proj."
    tiny_folder.write_safetensors(folder / "adapter_model.safetensors", {
        module + "lora_A.weight": ("F32", [rank, F]), module + "lora_B.weight": ("F32", [C, rank])})


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_convert_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)

    def setUp(self):
        self.out = self.folder / "out"
        self.addCleanup(self.remove_outputs)

    def remove_outputs(self):
        for path in self.folder.iterdir():
            if path.name.startswith((".", "out")):
                shutil.rmtree(path)

    def lema(self, *arguments, code=0):
        done = subprocess.run([LEMA, *map(str, arguments)], capture_output=True, text=True, timeout=900)
        self.assertEqual(done.returncode, code, done.stderr)
        if code:
            self.assertTrue(done.stderr.startswith("lema: error: "), done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done

    def peak_rss(self, *arguments):
        """Runs and returns the largest resident size of the process in bytes."""
        process = subprocess.Popen([LEMA, *map(str, arguments)], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        return usage.ru_maxrss * 1024

    def leftovers(self):
        return [path.name for path in self.folder.iterdir() if path.name.startswith((".", "out"))]


class Large(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.folder / "model"
        cls.total = write_7b(cls.model, BLOCKS)
        free = shutil.disk_usage(cls.folder).free
        if free < 1.5 * cls.total:
            raise unittest.SkipTest(f"{cls.folder} has {free} bytes free, {cls.total} are written")
        write_adapter(cls.folder / "adapter")

    def check_size(self):
        size = sum(path.stat().st_size for path in self.out.glob("*.safetensors"))
        self.assertTrue(self.total < size < self.total + MIB, size)

    def test_memory(self):
        """The bar is two of the largest tensors and 64 MiB; a few chunks is what it takes."""
        bar = 2 * 2 * V * C + 64 * MIB
        start = time.monotonic()
        peak = self.peak_rss("convert", self.model, self.out)
        self.check_size()
        print(f"{BLOCKS} blocks, {self.total / 1e9:.1f} GB converted in {time.monotonic() - start:.1f} s: "
              f"peak RSS {peak / MIB:.1f} MiB, bar {bar / MIB:.0f} MiB")
        if BOUNDED:
            self.assertLessEqual(peak, bar)
            self.assertLessEqual(peak, 96 * MIB)

    def test_memory_of_rounding_and_merging(self):
        peak = self.peak_rss("merge", "--model", self.model, "--adapter", self.folder / "adapter", "--output", self.out,
                             "--dtype", "f16", "--shard-size", "500MB")
        self.check_size()
        print(f"merged to f16: peak RSS {peak / MIB:.1f} MiB")
        if BOUNDED:
            self.assertLessEqual(peak, 160 * MIB)

    def stop_when_writing(self, send):
        """Starts a conversion and sends the signal once a part of the weights is written."""
        process = subprocess.Popen([LEMA, "convert", self.model, self.out], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            written = [path.stat().st_size for path in self.folder.glob(".out.tmp-*/model.safetensors")]
            if written and written[0] > 40 * MIB:
                break
            time.sleep(0.002)
        self.assertIsNone(process.poll(), "it ended before it was stopped")
        process.send_signal(send)
        message = process.communicate(timeout=60)[1]
        self.assertFalse(self.out.exists())
        return process.returncode, message

    def test_kill_leaves_no_output(self):
        code, _ = self.stop_when_writing(signal.SIGKILL)
        self.assertEqual(code, -signal.SIGKILL)
        left = self.leftovers()
        self.assertEqual(len(left), 1)
        self.assertTrue(left[0].startswith(".out.tmp-"), left)
        # What is left is in nobody's way.
        self.lema("convert", tiny_folder.write_byte_model(self.folder / "small"), self.out)

    def test_interrupt_removes_everything(self):
        for send in (signal.SIGINT, signal.SIGTERM):
            code, message = self.stop_when_writing(send)
            self.assertEqual(code, 130, message)
            self.assertIn("stopped by a signal; nothing was written", message)
            self.assertEqual(self.leftovers(), [])


class Small(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = tiny_folder.write_byte_model(cls.folder / "model")

    def test_again_is_byte_equal(self):
        for dtype in ((), ("--dtype", "bf16")):
            first, second, third = (self.folder / f"out{i}{len(dtype)}" for i in range(3))
            self.lema("convert", self.model, first, *dtype)
            self.lema("convert", self.model, second, *dtype)
            self.lema("convert", first, third, *dtype)
            for path in sorted(first.iterdir()):
                self.assertEqual(path.read_bytes(), (second / path.name).read_bytes(), path.name)
                self.assertEqual(path.read_bytes(), (third / path.name).read_bytes(), path.name)

    def test_failed_write_leaves_nothing(self):
        def limit_files():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        done = subprocess.run([LEMA, "convert", self.model, self.out], capture_output=True, text=True,
                              preexec_fn=limit_files)
        self.assertEqual(done.returncode, 74, done.stderr)
        self.assertIn("cannot write", done.stderr)
        self.assertEqual(self.leftovers(), [])

    def test_exit_codes(self):
        used = self.folder / "used"
        used.mkdir()
        for code, part, *arguments in (
                (2, "OUT is required", "convert", self.model),
                (2, "--dtype", "convert", self.model, self.out, "--dtype", "int8"),
                (2, "already exists", "convert", self.model, used),
                (2, "lies inside", "convert", self.model, self.model / "out"),
                (3, "no such file", "convert", self.folder / "absent", self.out),
                (3, "config.json", "convert", used, self.out),
                (3, "not a GGUF file", "convert", self.model / "model.safetensors", self.out),
                (74, "0 B are free", "convert", self.model, "/proc/out"),
                (2, "--adapter is required", "merge", "--model", self.model, "--output", self.out),
                (2, "--shard-size", "merge", "--model", self.model, "--adapter", used, "--output", self.out,
                 "--shard-size", "many"),
                (3, "adapter_config.json", "merge", "--model", self.model, "--adapter", used, "--output", self.out)):
            with self.subTest(arguments=arguments):
                done = self.lema(*arguments, code=code)
                self.assertIn(part, done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertEqual(self.leftovers(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
