"""scripts/compare_losses.py with a stand-in for lema, whose run on the GPU, or in f16, has the losses that a case asks
for. Standard library only."""
import json
import os
import pathlib
import subprocess
import sys
import unittest

from stand_in import StandInCase

SCRIPT = pathlib.Path(os.environ["LEMA_SOURCE"], "scripts", "compare_losses.py")
STAND_IN = """#!{python}
import json, os, pathlib, sys
wish = json.loads(os.environ["WISH"])
if sys.argv[1] == "eval":
    print(json.dumps({{"match_share": wish["share"], "matched": 1, "rows": 1}}))
    sys.exit()
settings = dict(a.split("=", 1) for a in sys.argv[2:] if "=" in a)
out = pathlib.Path(settings["output_dir"])
out.mkdir()
of_pieces = settings["data.train"].endswith("pieces.jsonl")
first = settings["compute"] == "f16" if of_pieces else settings["device"] == "cuda"
with open(out / "metrics.jsonl", "w") as lines:
    for step in range(wish.get("steps", int(settings.get("train.max_steps", 5)))):
        loss = wish["loss"] if first and step == 3 else 2
        lines.write(json.dumps({{"step": step + 1, "step_ms": 1, "loss": loss}}) + "\\n")
"""


class CompareLosses(StandInCase):
    STAND_IN = STAND_IN

    def setUp(self):
        super().setUp()
        (self.folder / "text.py").write_text("x" * 6000 * 600)

    def compare(self, what, **wish):
        wish = {"share": 1, "loss": 2} | wish
        command = [sys.executable, str(SCRIPT), what, "--lema", str(self.lema), "--model", "m", "--text",
                   str(self.folder), "--folder", str(self.folder / "out")]
        result = subprocess.run(command, capture_output=True, text=True,
                                env=os.environ | {"WISH": json.dumps(wish), "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertIn("failed\n", result.stdout, result.stderr)
        return result.returncode

    def test_quickstart(self):
        for wish, code in (({}, 0), ({"loss": 2.019}, 0), ({"loss": 2.021}, 1), ({"loss": None}, 1),
                           ({"share": 0.94}, 1)):
            with self.subTest(wish):
                self.assertEqual(self.compare("quickstart", **wish), code)

    def test_f16(self):
        # One loss of the first hundred.
        for wish, code in (({}, 0), ({"loss": 3.9}, 0), ({"loss": 4.1}, 1), ({"loss": None}, 1), ({"steps": 999}, 1)):
            with self.subTest(wish):
                self.assertEqual(self.compare("f16", **wish), code)


if __name__ == "__main__":
    unittest.main()
