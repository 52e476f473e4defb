"""scripts/check_exactness.py over a small model on the CPU: every place is visited, and what differs, or is not where
it should be, is found. Standard library only."""
import contextlib
import importlib.util
import io
import os
import pathlib
import sys
import unittest
import unittest.mock

from stand_in import StandInCase

PATH = pathlib.Path(os.environ["LEMA_SOURCE"], "scripts", "check_exactness.py")
PLACES = ["resident again", "two slots, offload", "three slots, recompute", "from disk", "half resident"]


class CheckExactness(StandInCase):
    STAND_IN = """#!{python}
import os, sys
arguments = sys.argv[1:]
if "memory.slots=3" in arguments:
    arguments += ["--set", "seed=2"]
if "memory.slots=2" in arguments:
    arguments += ["--set", "memory.activations=recompute"]
if "memory.ram=1" not in arguments:
    arguments = ["memory.ram=auto" if a.startswith("memory.ram=") else a for a in arguments]
os.execv(os.environ["LEMA"], [os.environ["LEMA"], *arguments])
"""

    def check(self, lema, code):
        spec = importlib.util.spec_from_file_location("check_exactness", PATH)
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        script.SIZES = {"small": script.Shape(3, 64, 96, 2, 512)}
        arguments = ["check_exactness.py", "--lema", str(lema), "--folder", str(self.folder), "--sizes", "small",
                     "--steps", "3", "--tokens", "16", "--device", "cpu"]
        out = io.StringIO()
        with unittest.mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(out), \
                self.assertRaises(SystemExit) as end:
            script.main()
        self.assertEqual(end.exception.code, code, out.getvalue())
        return out.getvalue()

    def test_weights_in_every_place_train_the_same_bits(self):
        out = self.check(os.environ["LEMA"], 0)
        for place in PLACES:
            self.assertIn(f"small, {place}: the same bits", out)
        self.assertIn("0 differ", out)

    def test_a_run_that_differs_is_named(self):
        out = self.check(self.lema, 1)
        self.assertIn("three slots, recompute: differs in adapter_model.safetensors, state.safetensors, losses", out)
        self.assertIn("small, two slots, offload: offload_boundaries is False, not True;", out)
        self.assertIn("small, from disk: ram_slots is 0, not 2;", out)
        self.assertIn("3 differ\n  small, two slots, offload\n  small, three slots, recompute\n  small, from disk\n", out)


if __name__ == "__main__":
    unittest.main()
