"""`lema plan`: its table is that of --dry-run and plan.json; what it predicts is what the kernel counts; a refusal and
--fit name settings that fit. Standard library only; LEMA is the binary."""
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import tempfile
import unittest
import unittest.mock

import tiny_folder
from process_memory import BOUNDED, run_and_watch

LEMA = os.environ["LEMA"]
WIDTH, HIDDEN, BLOCKS, HEADS, HEAD = 192, 512, 4, 3, 64
TOKENS, ROWS = 384, 12
CACHE = tempfile.TemporaryDirectory(prefix="lema_plan_cache_")  # of rates: what one test has measured serves the others
os.environ["XDG_CACHE_HOME"] = CACHE.name


def write_model(folder):
    """Large enough that its buffers outweigh the program: 4 blocks of width 192, the byte tokenizer."""
    folder = tiny_folder.write_byte_model(folder, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=BLOCKS,
                                          num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=HEAD,
                                          max_position_embeddings=1024)
    rng = random.Random(1)
    some = struct.pack("<1021f", *(rng.uniform(-0.05, 0.05) for _ in range(1021)))
    tensors = {"model.embed_tokens.weight": ("F32", [259, WIDTH]), "model.norm.weight": ("F32", [WIDTH])}
    for block in range(BLOCKS):
        shapes = {"input_layernorm": [WIDTH], "post_attention_layernorm": [WIDTH], "mlp.down_proj": [WIDTH, HIDDEN]}
        shapes |= {f"self_attn.{name}_proj": [WIDTH, WIDTH] for name in "qkvo"}
        shapes |= {f"mlp.{name}_proj": [HIDDEN, WIDTH] for name in ("gate", "up")}
        tensors |= {f"model.layers.{block}.{name}.weight": ("F32", shape) for name, shape in shapes.items()}
    filled = {}
    for name, (dtype, shape) in tensors.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        filled[name] = (dtype, shape, (some * (size // len(some) + 1))[:size])
    tiny_folder.write_safetensors(folder / "model.safetensors", filled)


class Plan(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_plan_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        write_model(cls.folder / "model")
        rng = random.Random(2)
        rows = [{"tokens": [rng.randrange(256) for _ in range(TOKENS - i % 5)]} for i in range(ROWS)]
        (cls.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def command(self, name, *settings, flags=()):
        config = {"output_dir": self.folder / "run", "data.format": "tokens", "data.cache": "off", "train.batch_size": 6,
                  "train.max_steps": 3, "lora.rank": 8, "threads": 2, "device": "cpu"}
        command = [LEMA, name, self.folder / "model", self.folder / "rows.jsonl", *flags]
        for key, value in config.items():
            command += ["--set", f"{key}={value}"]
        for setting in settings:
            command += ["--set", setting]
        return [str(part) for part in command]

    def lema(self, name, *settings, flags=(), code=0):
        result = subprocess.run(self.command(name, *settings, flags=flags), capture_output=True, text=True)
        self.assertEqual(result.returncode, code, result.stderr)
        return result.stdout if code == 0 and name != "train" else result.stderr

    def plan(self, *settings):
        return json.loads(self.lema("plan", *settings, flags=["--json"]))


class Table(Plan):
    def test_the_table_is_that_of_the_dry_run_and_of_plan_json(self):
        table = self.lema("plan")
        self.assertIn(table, self.lema("train", flags=["--dry-run"]))
        self.assertFalse((self.folder / "run").exists())
        plan = self.plan()
        self.lema("train")
        self.addCleanup(shutil.rmtree, self.folder / "run")
        self.assertEqual(json.loads((self.folder / "run" / "plan.json").read_text()), plan)
        for row in plan["buffers"]:
            self.assertIn(row["label"], table)
            self.assertGreater(row["bytes"], 0)
        for tier in ("device", "pinned", "host", "mapped"):
            self.assertEqual(plan[f"{tier}_bytes"], sum(row["bytes"] for row in plan["buffers"] if row["tier"] == tier))
        self.assertEqual(plan["process_bytes"], plan["device_bytes"] + plan["pinned_bytes"] + plan["host_bytes"])
        self.assertEqual(plan["steps"], 3)
        self.assertRegex(table, r"step +\d+ ms  predicted; 0:\d\d for 3 steps")

    def test_without_rates_a_dry_run_predicts_no_time(self):
        with unittest.mock.patch.dict(os.environ, XDG_CACHE_HOME=str(self.folder / "empty")):
            log = self.lema("train", "train.batch_size=5", flags=["--dry-run"])
        self.assertIn("step    not predicted", log)

    def test_every_method_is_planned(self):
        for settings in (["lora.dora=true"], ['lora.targets=["q_proj","lm_head"]'], ["lora.dropout=0.2"],
                         ['lora.modules_to_save=["embed_tokens","lm_head"]'], ["memory.vram=100MB", "lora.dora=true"],
                         ["train.micro_batch_size=4", "data.packing=false"]):
            with self.subTest(settings):
                self.assertGreater(self.plan(*settings)["step_ms"], 0)


class Peak(Plan):
    SETTINGS = {
        "keep": ["memory.activations=keep"],
        "recompute": ["memory.activations=recompute"],
        "micro": ["train.micro_batch_size=2"],
        "streamed": ["memory.residency=stream", "memory.activations=offload"],
        "buffered": ["memory.residency=stream", "memory.disk=buffered"],
        "embedding": ['lora.modules_to_save=["embed_tokens"]', "memory.activations=recompute"],
    }

    @unittest.skipUnless(BOUNDED, "a build with sanitizers")
    def test_predicted_and_counted_peaks_agree(self):
        for name, settings in self.SETTINGS.items():
            with self.subTest(name):
                plan = self.plan(*settings)
                code, errors, peak = run_and_watch(self.command("train", *settings))
                shutil.rmtree(self.folder / "run", True)
                self.assertEqual(code, 0, errors)
                own, total = plan["process_bytes"], plan["process_bytes"] + plan["mapped_bytes"]
                print(f"{name}: own {peak['RssAnon']} / {own} = {peak['RssAnon'] / own:.4f}, "
                      f"all {peak['VmHWM']} / {total} = {peak['VmHWM'] / total:.4f}", flush=True)
                self.assertLess(abs(peak["RssAnon"] / own - 1), 0.02)
                self.assertLess(abs(peak["VmHWM"] / total - 1), 0.02)


class Fit(Plan):
    def changes(self, text):
        return re.findall(r"[a-z_.]+=[\w.]+", text.split("with", 1)[1])

    def test_a_refusal_names_settings_that_fit(self):
        streamed = ["memory.vram=1GB", "memory.residency=stream", "memory.activations=offload"]
        least = self.plan(*streamed)["device_bytes"]
        smallest = self.plan(*streamed, "train.micro_batch_size=1", "train.batch_size=1", "train.token_tile=64")["device_bytes"]
        for settings in ([f"memory.vram={least - 1}"], [f"memory.vram={smallest}"],
                         [f"memory.vram={least}", "memory.residency=resident"],
                         [f"memory.vram={least}", "memory.activations=keep"],
                         [f"memory.vram={least}", "memory.slots=4"]):
            with self.subTest(settings):
                log = self.lema("train", *settings, flags=["--dry-run"], code=4)
                self.assertRegex(log, r"set it to at least \d+; fits with \S")
                found = self.changes(log)
                self.lema("train", *settings, *found)
                shutil.rmtree(self.folder / "run")

    def test_a_refusal_for_host_memory_names_the_nearest_setting(self):
        def least(*settings):
            return int(re.search(r"at least (\d+)", self.lema("plan", "memory.ram=1MB", *settings, code=4)).group(1))

        plain, kept = least(), least("memory.activations=keep")
        smallest = least("train.micro_batch_size=1", "train.batch_size=1", "train.token_tile=64")
        for ram, settings, expected in (
                (plain - 1, [], ["train.micro_batch_size=5"]), (plain, ["memory.slots=1000"], ["memory.slots=auto"]),
                (plain, ["memory.residency=resident"], ["memory.residency=auto"]),
                (plain, ["memory.activations=keep"], ["memory.activations=auto"]),
                (kept, ["memory.activations=keep", "memory.slots=1000"], ["memory.slots=auto"]),
                (smallest, ["memory.activations=keep", "memory.slots=1000"], None),
                (smallest, [], None), (smallest, ["memory.activations=keep"], None)):
            with self.subTest(ram=ram, settings=settings):
                log = self.lema("train", f"memory.ram={ram}", *settings, flags=["--dry-run"], code=4)
                self.assertRegex(log, r"set it to at least \d+; fits with \S")
                found = self.changes(log)
                if expected:
                    self.assertEqual(found, expected)
                plan = self.plan(f"memory.ram={ram}", *settings, *found)
                self.assertLessEqual(plan["process_bytes"], ram)
        for settings in ([], ["memory.activations=keep"], ["memory.slots=1000"]):
            log = self.lema("train", f"memory.ram={smallest // 3}", *settings, flags=["--dry-run"], code=4)
            self.assertRegex(log, r"no smaller batch fits: the least is [\d.]+ MiB of .*, with .*train.batch_size=1")

    def test_fit_names_the_nearest_settings(self):
        least = self.plan("memory.vram=1GB", "memory.residency=stream", "memory.activations=offload")["device_bytes"]
        plain = self.plan()
        own, taken = plain["process_bytes"], plain["device_bytes"]
        for limit, settings, changes in (
                (f"vram={taken}", [], {}), (f"vram={taken - 1}", [], {"memory.vram": taken - 1}),
                (f"vram={least}", [], {"memory.vram": least}), (f"vram={least}", [f"memory.vram={least}"], {}),
                (f"vram={taken}", ["memory.vram=1MB"], {"memory.vram": taken}),
                (f"vram={least - 1}", [], {"memory.vram": least - 1, "train.micro_batch_size": 5}),
                (f"ram={own}", [], {}), (f"ram={own * 2 // 3}", [], {"memory.activations": "recompute"}),
                ("ram=100MB", ["memory.ram=200MB"], {"memory.ram": 100_000_000})):
            with self.subTest(limit=limit, settings=settings):
                out = json.loads(self.lema("plan", *settings, flags=["--fit", limit, "--json"]))
                self.assertEqual(out["changes"], {key: str(value) for key, value in changes.items()})
                plan = self.plan(*settings, *(f"{key}={value}" for key, value in out["changes"].items()))
                self.assertEqual(plan["device_bytes" if limit.startswith("vram") else "process_bytes"], out["amount"])
                self.assertLessEqual(out["amount"], out["limit"])
        self.assertRegex(self.lema("plan", flags=["--fit", f"vram={taken}"]), "fits as it is")

        step = self.plan()["step_ms"]
        out = json.loads(self.lema("plan", flags=["--fit", f"step_ms={step / 2}", "--json"]))
        self.assertLessEqual(out["amount"], step / 2)
        self.assertIn("train.batch_size", out["changes"])

    @unittest.skipIf(os.geteuid(), "mounts need root")
    def test_fit_starts_from_what_runs_in_the_memory_there_is(self):
        # A machine with little memory: weights that it cannot hold are read, whatever --fit is asked for.
        plain = self.plan()
        little = self.folder / "meminfo"
        little.write_text(f"MemTotal: 4000000 kB\nMemAvailable: {plain['process_bytes'] // 1024 * 5 // 6} kB\n")

        def plan(*settings, flags=()):
            command = self.command("plan", *settings, flags=["--json", *flags])
            result = subprocess.run(["unshare", "-m", "sh", "-c", f'mount --bind {little} /proc/meminfo && exec "$@"', "sh",
                                     *command], capture_output=True, text=True)
            self.assertEqual(result.returncode, 0, result.stderr)
            return json.loads(result.stdout)

        streamed = plan()
        self.assertLess(streamed["process_bytes"], plain["process_bytes"])
        self.assertEqual(plan(flags=["--fit", f"ram={streamed['process_bytes']}"])["changes"], {})
        less = streamed["process_bytes"] * 9 // 10
        found = plan(flags=["--fit", f"ram={less}"])
        self.assertEqual(found["changes"], {"memory.ram": str(less)})
        self.assertEqual(plan(f"memory.ram={less}")["process_bytes"], found["amount"])
        fast = plan(flags=["--fit", f"step_ms={streamed['step_ms'] * 2}"])
        self.assertEqual(fast["changes"], {})

    def test_what_cannot_be_reached_says_the_least(self):
        for goal in ("vram=1MB", "ram=5MB"):
            log = self.lema("plan", flags=["--fit", goal], code=4)
            self.assertRegex(log, rf"no smaller batch reaches {goal}: the least is [\d.]+ MiB of .* memory, with .*"
                                  "train.batch_size=1")
        self.assertRegex(self.lema("plan", "memory.ram=5MB", flags=["--fit", "step_ms=100000"], code=4),
                         "memory.ram is .*; set it to at least")
        self.lema("plan", flags=["--fit", "disk=1GB"], code=2)


class Bench(Plan):
    def test_rates_are_measured_and_kept(self):
        out = json.loads(self.lema("bench", "train.batch_size=2", flags=["--json"]))
        kernels = {call["call"].split(" F32")[0] for call in out["calls"]}
        self.assertLessEqual({"linear", "linear backward", "attention", "attention backward", "head chunk", "swiglu",
                              "rmsnorm backward", "adamw"}, kernels)
        self.assertTrue(all(call["seconds"] > 0 and call["count"] > 0 for call in out["calls"]))
        kept = [json.loads(path.read_text()) for path in pathlib.Path(CACHE.name, "lema").glob("rates-*.json")]
        known = {call for cache in kept for call in cache["calls"]}
        self.assertLessEqual({call["call"] for call in out["calls"]}, known)
        self.assertIn("predicted;", self.lema("train", "train.batch_size=2", flags=["--dry-run"]))
        # The limit is a product of its own, whatever the run's products reach.
        products = [cache["calls"].get("linear F32 1536x1536 1536F32", [1])[0] for cache in kept]
        self.assertIn(out["f32_flops"], [2 * 1536 ** 3 / seconds for seconds in products])

    def test_the_rates_of_other_runs_are_kept(self):
        from_disk = ["memory.ram=200MB", "memory.residency=stream", "train.batch_size=4"]
        self.plan(*from_disk)
        self.lema("bench", "train.batch_size=2")
        self.assertIn("predicted;", self.lema("train", *from_disk, flags=["--dry-run"]))

    def test_a_device_that_is_named_is_the_runs(self):
        here = json.loads(self.lema("bench", "device=cuda", flags=["--device", "cpu", "--json"]))
        self.assertRegex(here["machine"], "^cpu ")

    def test_reads_are_measured_again_on_another_disk(self):
        shared = pathlib.Path("/dev/shm")
        if not shared.is_dir() or shared.stat().st_dev == self.folder.stat().st_dev:
            self.skipTest("one file system only")
        other = pathlib.Path(tempfile.mkdtemp(prefix="lema_plan_", dir=shared))
        self.addCleanup(shutil.rmtree, other, True)
        shutil.copytree(self.folder / "model", other / "model")
        place = self.folder / "place"
        self.addCleanup(place.unlink)
        known = []
        for folder in (self.folder, other):
            place.unlink(missing_ok=True)
            place.symlink_to(folder / "model")
            self.plan(f"model={place}", "memory.ram=200MB", "memory.residency=stream", "memory.disk=buffered")
            kept = [json.loads(path.read_text()) for path in pathlib.Path(CACHE.name, "lema").glob("rates-*.json")]
            known.append({call for cache in kept for call in cache["calls"] if f" reads of {place}" in call})
        self.assertEqual([len(calls) for calls in known], [1, 2], known)

    def test_thousands_of_threads_are_warned_of(self):
        result = subprocess.run(self.command("bench", "train.batch_size=1", "threads=4096"), capture_output=True,
                                text=True, timeout=300)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr, r"4096 threads on \d+ CPUs")

    def test_a_damaged_cache_is_measured_anew(self):
        self.lema("plan", "train.batch_size=3")
        for damaged in ('{"calls": {"linear": 3}}', "{}", "[]"):
            with self.subTest(damaged):
                for path in pathlib.Path(CACHE.name, "lema").glob("rates-*.json"):
                    path.write_text(damaged)
                self.assertIn("predicted;", self.lema("plan", "train.batch_size=3"))

    def test_a_cache_of_impossible_times_is_measured_anew(self):
        self.lema("plan", "train.batch_size=3")
        caches = list(pathlib.Path(CACHE.name, "lema").glob("rates-*.json"))
        for seconds in (-1, 0, 1e999):
            with self.subTest(seconds):
                for path in caches:
                    cache = json.loads(path.read_text())
                    cache["calls"] |= {call: [seconds, 1] for call in cache["calls"] if " reads of " not in call}
                    path.write_text(json.dumps(cache).replace("Infinity", "1e999"))
                command = self.command("train", "train.batch_size=3", flags=["--dry-run"])
                log = subprocess.run(command, capture_output=True, text=True).stderr
                self.assertIn("measured anew", log)
                self.assertIn("not predicted", log)
        self.assertGreater(self.plan("train.batch_size=3")["step_ms"], 0)


if __name__ == "__main__":
    unittest.main()
