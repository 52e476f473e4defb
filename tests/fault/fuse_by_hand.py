"""Model and data on a file system (FUSE) whose reads are slow, fail, or give other bytes from the n-th on: a run ends exactly,
or with 3 or 74 and the file's name. Short reads are those of file_calls_test.py: the kernel would fill them with zeros here,
which nobody can tell from data. No part of ctest: needs root, libfuse3 and the package mfusepy.
LEMA_FUSE_READS=k goes up to the k-th read of each file (default 6)."""
import collections
import errno
import multiprocessing
import os
import pathlib
import stat
import subprocess
import time
import unittest

import mfusepy

import changed_files_test as changed

READS = int(os.environ.get("LEMA_FUSE_READS", 6))
FAULTS = ("slow", "EIO once", "EIO", "other bytes")


class Sick(mfusepy.Operations):
    """`folder`, read-only; reads of `file` from the n-th on are of the fault. Other bytes come with a new time."""
    use_ns = True

    def __init__(self, folder, file, n, fault):
        self.folder, self.file, self.n, self.fault, self.reads = str(folder), "/" + file, n, fault, 0

    def strikes(self, path):
        return path == self.file and (self.reads == self.n if self.fault == "EIO once" else self.reads >= self.n)

    def getattr(self, path, fh=None):
        try:
            st = os.stat(self.folder + path)
        except OSError as error:
            raise mfusepy.FuseOSError(error.errno)
        found = {key: getattr(st, key) for key in ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino")}
        moved = self.fault == "other bytes" and stat.S_ISREG(st.st_mode) and self.strikes(path)
        return {**found, "st_mtime": st.st_mtime_ns + moved, "st_ctime": st.st_ctime_ns, "st_atime": st.st_atime_ns}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.folder + path)]

    def open(self, path, flags):
        return os.open(self.folder + path, os.O_RDONLY)

    def release(self, path, fh):
        os.close(fh)

    def read(self, path, size, offset, fh):
        self.reads += path == self.file
        data = os.pread(fh, size, offset)
        if not self.strikes(path):
            return data
        if self.fault == "slow":
            time.sleep(0.1)
        if self.fault.startswith("EIO"):
            raise mfusepy.FuseOSError(errno.EIO)
        return bytes(b ^ 1 for b in data) if self.fault == "other bytes" else data


def serve(place, *sick):
    mfusepy.FUSE(Sick(*sick), str(place), foreground=True, nothreads=True, ro=True, attr_timeout=0, entry_timeout=0)


class Fuse(changed.ChangedFiles):
    def run_on(self, case):
        name, settings, file, n, fault = case
        place, output = self.place / name, self.folder / name
        place.mkdir()
        server = multiprocessing.get_context("fork").Process(target=serve, args=(place, self.sources, file, n, fault))
        server.start()
        try:
            while not os.path.ismount(place):
                self.assertTrue(server.is_alive(), "no FUSE here")
                time.sleep(0.01)
            process = self.start_in(place, output, *settings)
            log = process.communicate(timeout=120)[1]
        finally:
            subprocess.run(["umount", "-l", place], check=False)
            server.join(10)
            server.kill()
        if process.returncode == 0:
            self.assertTrue(self.is_whole(output, changed.STEPS), f"{name}: another end: {log[-1500:]}")
        else:
            self.assertIn(process.returncode, (3, 74), f"{name}: {log[-1500:]}")
            said = [line for line in log.splitlines() if line.startswith("lema: error: ")]
            self.assertEqual(len(said), 1, f"{name}: {log[-1500:]}")
            self.assertIn(pathlib.Path(file).name, said[0], name)
        return f"{fault}: {process.returncode}"

    def test_reads(self):
        cases = [(f"{tier} {fault} {n}", ["lora.rank=2", *settings], "model/model.safetensors", n, fault)
                 for tier, settings in changed.TIERS.items() for fault in FAULTS for n in range(1, READS + 1)]
        cases += [(f"{file} {fault} {n}".replace("/", " "), ["lora.rank=2"], file, n, fault)
                  for file in ("model/config.json", "model/tokenizer.json", "rows.jsonl", "eval.jsonl")
                  for fault in FAULTS for n in range(1, 4)]
        codes = collections.Counter(self.together(self.run_on, cases))
        print(f"{codes.total()} runs; {dict(sorted(codes.items()))}")


if __name__ == "__main__":
    unittest.main(argv=["fuse_by_hand", "Fuse.test_reads"])
