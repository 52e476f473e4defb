"""`lema tokenize` over many rows against a reference: runs are started and awaited apart, so that the reference computes
meanwhile, and cases go to as many processes as there are cores. Used by the parity tests of tokenizers."""
import json
import multiprocessing
import os
import subprocess
import tempfile

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not outlive a fork
LEMA = os.environ.get("LEMA", "")


class Run:
    """`lema tokenize` at work on `rows`: texts, or with --decode lists of ids."""

    def __init__(self, folder, rows, *flags):
        encode = json.JSONEncoder().encode
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        with tempfile.TemporaryFile() as source:
            source.write("".join(encode(row) + "\n" for row in rows).encode())
            source.seek(0)
            self.process = subprocess.Popen([LEMA, "tokenize", "--model", str(folder), "--json-lines", *flags],
                                            stdin=source, stdout=self.out, stderr=self.err)

    def rows(self):
        """What it printed, a value per row."""
        code = self.process.wait()
        for file in (self.out, self.err):
            file.seek(0)
        if code:
            raise RuntimeError(f"lema tokenize: exit {code}: {self.err.read().decode()}")
        return json.loads(b"[" + b",".join(self.out.read().splitlines()) + b"]")


class Differences:
    """Compares rows of one tokenizer, prints the first that differ, and counts."""

    def __init__(self, name):
        self.name, self.failed, self.compared = name, 0, {}

    def look(self, what, inputs, ours, theirs):
        assert len(inputs) == len(ours) == len(theirs), (self.name, what, len(inputs), len(ours), len(theirs))
        self.compared[what] = len(ours)
        if ours == theirs:
            return
        wrong = [i for i in range(len(ours)) if ours[i] != theirs[i]]
        for i in wrong[:3]:
            print(f"{self.name}: {what}: {inputs[i]!r}\n  found    {ours[i]}\n  expected {theirs[i]}")
        print(f"{self.name}: {what}: {len(wrong)} of {len(ours)} rows differ", flush=True)
        self.failed += 1


def in_parallel(compare, cases):
    """compare(case) for each, in processes that inherit the cases."""
    global _compare, _cases
    _compare, _cases = compare, cases
    with multiprocessing.get_context("fork").Pool() as pool:
        return pool.map(_at, range(len(cases)), chunksize=1)


def _at(index):
    return _compare(_cases[index])


def verdict(results, at_least):
    """Prints what was compared; the exit code of the test. Every tokenizer must have been asked `at_least` rows each way."""
    for result in results:
        for what in ("encode", "decode"):
            assert result.compared[what] >= at_least, (result.name, result.compared, at_least)
    failed = [result.name for result in results if result.failed]
    rows = {what: min(result.compared[what] for result in results) for what in ("encode", "decode")}
    print(f"{len(results)} tokenizers, at least {rows['encode']} rows encoded and {rows['decode']} decoded with each: "
          f"{len(failed)} differ {failed or ''}")
    return 1 if failed or not results else 0
