"""README.md is true: its `sh test` blocks run in order on a tiny model, `LANG file NAME` blocks are the files they use,
`sh manual: REASON` blocks say why they are not run, a `text output` block is what the `sh test` block before it prints
(numbers aside; `...` stands for any lines), the options table is what --help says, and every path it names exists.
Standard library only; LEMA is the binary."""
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import tiny_folder

LEMA = os.environ["LEMA"]
SOURCE = pathlib.Path(os.environ["LEMA_SOURCE"])
README = (SOURCE / "README.md").read_text(encoding="utf-8")
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def blocks():
    """(line number, info string, text) of every fenced block."""
    found, start, info, text = [], 0, None, []
    for number, line in enumerate(README.splitlines(), 1):
        if not line.startswith("```"):
            text.append(line)
        elif info is None:
            start, info, text = number, line[3:], []
        else:
            found.append((start, info, "\n".join(text) + "\n"))
            info = None
    assert info is None, f"README.md:{start}: the block does not end"
    return found


def masked(output):
    """Without what differs from model to model and from machine to machine."""
    output = re.sub(r"^device .*: the CPU is used\n", "", output, flags=re.M)  # of a binary with CUDA
    output = re.sub(r"\b(F32|BF16)\b", "DTYPE", output)
    output = re.sub(r"\d[\d.]*(e[-+]\d+)?( ([KMG]i)?B\b)?", "#", output)
    return "begin\n" + re.sub(r" +", " ", output) + "end\n"


def write_tiny_model(folder):
    """A chat model with random weights that reads bytes, of enough positions for the README's rows."""
    tiny_folder.write_byte_model(folder, CHATML, max_position_embeddings=1024)
    rng = random.Random(3)
    tensors = {}
    for name, (dtype, shape) in tiny_folder.llama_tensors(259).items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        centre = 1.0 if "norm" in name else 0.0
        values = (centre + rng.uniform(-0.3, 0.3) for _ in range(count))
        tensors[name] = (dtype, shape, struct.pack(f"<{count}f", *values))
    tiny_folder.write_safetensors(folder / "model.safetensors", tensors)


class Readme(unittest.TestCase):
    def test_every_block_says_what_it_is(self):
        for line, info, _ in blocks():
            with self.subTest(line=line):
                self.assertRegex(info, r"^(sh test|sh manual: \S.+|\w+ file \S+|text|text output)$")

    def test_commands_run(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="lema_readme_"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "build").mkdir()
        (folder / "build/lema").symlink_to(pathlib.Path(LEMA).resolve())
        for name in ("scripts", "configs"):
            (folder / name).symlink_to(SOURCE / name)
        write_tiny_model(folder / "quickstart/model")
        # python3 of the commands is the one that runs this test.
        (folder / "bin").mkdir()
        (folder / "bin/python3").symlink_to(sys.executable)
        # Nothing is measured yet: what is printed depends on it.
        env = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(folder / "cache")}
        ran, compared, output = 0, 0, None
        for line, info, text in blocks():
            if " file " in info:
                file = folder / info.split(" file ")[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            if info == "text output":
                rest = masked(output)
                for part in masked(text).split("...\n"):
                    self.assertIn(part, rest, f"README.md:{line}")
                    rest = rest.partition(part)[2]
                compared += 1
            if info != "sh test":
                continue
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, stdin=subprocess.DEVNULL,
                                  env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace", timeout=300)
            output = done.stdout
            self.assertEqual(done.returncode, 0, f"README.md:{line}:\n{text}{output}")
            ran += 1
        self.assertGreater(ran, 3)
        self.assertGreater(compared, 0)

    def test_options_are_those_of_help(self):
        def help_of(*command):
            return subprocess.run([LEMA, *command, "--help"], capture_output=True, text=True, check=True).stdout

        commands = re.findall(r"^  (\w+) ", help_of().split("Subcommands:")[1], re.M)
        rows = {row[0]: row[1] for row in re.findall(r"^\| `lema (\w+)[^|]*\|([^|]*)\|", README, re.M)}
        self.assertEqual(sorted(rows), sorted(commands))
        for command in commands:
            listed = re.findall(r"^  (?:-\w,)?(--[\w-]+)", help_of(command), re.M)
            self.assertEqual(sorted(re.findall(r"--[\w-]+", rows[command])), sorted(set(listed) - {"--help"}), command)

    def test_paths_exist(self):
        prose = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
        named = re.findall(r"`((?:src|kernels|scripts|tests|configs)/[\w./-]*|LICENSE)`", prose)
        self.assertGreater(len(named), 8)
        for path in named:
            self.assertTrue((SOURCE / path).exists(), path)

    def test_licence(self):
        self.assertTrue((SOURCE / "LICENSE").read_text().startswith("MIT License"))


if __name__ == "__main__":
    unittest.main()
