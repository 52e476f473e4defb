"""Checkpoints whose manifest is right and whose files are malformed: --resume refuses each with exit code 3 (2 where a file only
says another run than this) and one line that names the file, and changes nothing. Standard library only."""
import json
import shutil
import struct
import unittest

from crc32c import crc32c
from faulty_run import FaultCase


def edit(checkpoint, name, data):
    """Replaces a file and its entry in the manifest; None takes both away."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    if data is None:
        (checkpoint / name).unlink()
        manifest["files"].pop(name)
    else:
        (checkpoint / name).write_bytes(data)
        manifest["files"][name] = {"bytes": len(data), "crc32c": f"{crc32c(data):08x}"}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def tensors(data):
    """A safetensors file as {name: [dtype, shape, bytes]}."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: [t["dtype"], t["shape"], data[8 + length:][slice(*t["data_offsets"])]] for name, t in header.items()}


def safetensors(content):
    header, data = {}, b""
    for name, (dtype, shape, values) in content.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class MalformedCheckpoints(FaultCase):
    def refused(self, cases, code=3):
        for name, file, data, saying in cases:
            with self.subTest(name):
                checkpoint = self.folder / "spoilt"
                shutil.copytree(self.whole / "checkpoint-000004", checkpoint)
                edit(checkpoint, file, data)
                run = self.folder / "run"
                ended = self.train(run, more=["--resume", checkpoint])
                self.assertEqual(ended.code, code, ended.log)
                last = ended.log.splitlines()[-1]
                self.assertIn(saying, last)
                self.assertTrue(file in last or code == 2, last)
                self.assertLess(len(last), 3000)
                self.assertTrue(last.isprintable(), last)
                self.assertEqual(self.saved(run), [])
                shutil.rmtree(checkpoint)
                shutil.rmtree(run, ignore_errors=True)

    def test_state(self):
        good = json.loads((self.whole / "checkpoint-000004" / "state.json").read_text())

        def state(**changes):
            value = {**good, **changes}
            return json.dumps({k: v for k, v in value.items() if v != "gone"}).encode()

        def guard(**changes):
            return state(guard={**good["guard"], **changes})
        cases = [("nothing", b"", ":1:1: "), ("zeros", bytes(40), "NUL byte"), ("a list", b"[]", "state.json"),
                 ("cut short", json.dumps(good).encode()[:200], "state.json:1:"), ("two", state() * 2, "state.json:1:"),
                 ("2 MB", state() + b" " * (2 << 20), "state.json"), ("deep", b"[" * 100000, "deeper than 64"),
                 ("a key twice", state()[:-1] + b', "step": 4}', "duplicate key")]
        for key in ("step", "epoch", "position", "tokens_seen", "best_step"):
            for value in ("gone", "4", -1, 4.0, None, [], 2**62):
                cases.append((f"{key} {value}", state(**{key: value}), key))
        cases += [(f"run_id {v}", state(run_id=v), "run_id") for v in ("gone", 1, None, [])]
        cases += [(f"best_eval_loss {v}", state(best_eval_loss=v), "best_eval_loss") for v in ("0", [], True)]
        cases += [(f"guard {v}", state(guard=v), "guard") for v in ("gone", 1, [], "x", {})]
        for key in good["guard"]:
            cases += [(f"guard.{key} {v}", guard(**{key: v}), "guard") for v in ("0", None, [])]
        cases += [(f"guard.{key} -1", guard(**{key: -1}), "guard") for key in ("skipped", "in_a_row", "updates", "variance")]
        hashes = ("numeric_plan", "model_sha256", "data_sha256", "text_sha256")
        cases += [(f"{key} gone", state(**{key: "gone"}), key) for key in (*hashes, "weights_crc32c", "config")]
        cases += [(f"{key} None", state(**{key: None}), key) for key in hashes]
        cases += [(f"config {v}", state(config=v), "config") for v in (1, [], "x", {}, {"lora": 1}, {"lora": {"init_from": 3}})]
        self.refused([(name, "state.json", data, saying) for name, data, saying in cases])
        self.refused([(f"{key} {str(value)[:9]!r}", "state.json", state(**{key: value}), "another")
                      for key in hashes for value in ("x" * 500_000, "\x1b[2J\x7f", 1, [])], code=2)

    def test_tensors(self):
        for file in ("state.safetensors", "adapter_model.safetensors"):
            good = tensors((self.whole / "checkpoint-000004" / file).read_bytes())
            first = sorted(good)[0]
            dtype, shape, values = good[first]

            def with_first(*entry):
                return safetensors({**good, first: list(entry)})
            nan = struct.pack("<f", float("nan"))
            self.refused([(name, file, data, saying) for name, data, saying in (
                ("nothing", b"", file), ("zeros", bytes(64), file), ("no tensors", safetensors({}), ""),
                ("a tensor less", safetensors({k: v for k, v in good.items() if k != first}), ""),
                ("F64", with_first("F64", [len(values) // 8], values), ""),
                ("I32", with_first("I32", shape, values), ""),
                ("another shape", with_first(dtype, [*shape, 1], values), ""),
                ("a row less", with_first(dtype, [len(values) // 4 - 1], values[4:]), ""),
                ("NaN", with_first(dtype, shape, nan + values[4:]), "nan"),
                ("infinity", with_first(dtype, shape, values[:-4] + struct.pack("<f", float("-inf"))), "inf"),
                ("a byte too many", safetensors(good) + b"\0", "trailing bytes"),
                ("a byte less", safetensors(good)[:-1], "cut short"))])

    def test_files_that_are_missing(self):
        self.refused([(f"no {name}", name, None, name) for name in
                      ("state.json", "state.safetensors", "adapter_model.safetensors", "adapter_config.json")])

    def test_adapter_config(self):
        good = json.loads((self.whole / "checkpoint-000004" / "adapter_config.json").read_text())

        def config(**changes):
            return json.dumps({**good, **changes}).encode()
        self.refused([(name, "adapter_config.json", data, saying) for name, data, saying in (
            ("nothing", b"", ":1:1: "), ("a list", b"[]", "expected an object"), ("r 0", config(r=0), "r: found 0"),
            ("r 2^40", config(r=1 << 40), "r: found"), ("r as text", config(r="2"), "r: found string"),
            ("another kind", config(peft_type="\x1b[2J"), "\\x1b[2J"), ("alpha -1", config(lora_alpha=-1), "lora_alpha"),
            ("a rank for a terminal escape", config(rank_pattern={"\x1b[2J": 0}), "\\x1b[2J"),
            ("targets that are numbers", config(target_modules=[1]), "target_modules"))])


if __name__ == "__main__":
    unittest.main()
