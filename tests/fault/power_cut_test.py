"""The power is cut at every call by which a run changes its folder, on real ext4 and XFS file systems: after the journal is
replayed no save that was reported is lost, no checkpoint that is there under its own name is torn, and the resumed run ends
byte-equal. Control arms: writers that lack one part of the commit protocol must lose or tear something. Each cut is asserted
to have happened."""
import pathlib
import random
import shutil
import tempfile
import threading
import unittest

from faulty_run import FAULTY, MUTATING, FaultCase
from mounted_image import copy_image, make_image, mounted, require_mounts

CUT = 99  # the exit status of a process whose power was cut


class PowerCut(FaultCase):
    def setUp(self):
        super().setUp()
        self.memory = pathlib.Path(tempfile.mkdtemp(prefix="lema_cut_", dir="/dev/shm"))
        self.addCleanup(shutil.rmtree, self.memory, True)
        calls = self.calls(under=self.folder / "counted")
        self.mutating = [n for n, (function, _) in enumerate(calls, 1) if function in MUTATING]
        self.count, self.lock = 0, threading.Lock()

    def base(self, kind):
        image = self.memory / f"base-{kind}"
        make_image(image, kind)
        return image

    def cut(self, kind, n, early=None, writer=""):
        """None, or what is wrong after the cut at call n."""
        with self.lock:
            self.count += 1
            place = self.memory / f"{kind}-{self.count}"
        image = place.with_suffix(".image")
        options = ["-o", "loop" if kind == "ext4" else "loop,nouuid"]
        copy_image(self.memory / f"base-{kind}", image)
        try:
            with mounted(image, place, *options):
                fault = {"early": f"at={early}"} if early else {}
                ended = self.train(place / "run", binary=FAULTY, under=place / "run", mount=place, writer=writer,
                                   fault=f"at={n},do=cut", **fault)
            self.assertEqual(ended.code, CUT, f"call {n}: no cut: {ended.log}")
            with mounted(image, place, *options):
                run = place / "run"
                torn = [step for step in self.saved(run)
                        if not (run / f"checkpoint-{step:06}" / "manifest.json").exists() or not self.is_whole(run, step)]
                if torn:
                    return f"torn: {torn}"
                try:
                    self.check_folder(run, ended.log, f"{kind} cut at call {n} of {writer or 'lema'}")
                except AssertionError as error:
                    return str(error)
        finally:
            image.unlink()
            place.rmdir()
        return None

    def all_cuts(self, kind, step):
        self.base(kind)
        rng = random.Random(11)
        cases = [(n, early) for n in self.mutating[::step] for early in (None, rng.choice(self.mutating) % n or 1)]

        def work(case):
            self.assertIsNone(self.cut(kind, *case), f"{kind}, (call, early commit) {case}")

        self.together(work, cases)
        print(f"{kind}: {len(cases)} cuts, nothing lost, nothing torn")
        return len(cases)

    def test_nothing_is_lost_on_ext4(self):
        self.assertGreater(self.all_cuts("ext4", 1), 250)

    def test_nothing_is_lost_on_xfs(self):
        self.assertGreater(self.all_cuts("xfs", 3), 50)

    def test_every_part_of_the_protocol_is_needed(self):
        self.in_one_part()
        self.base("ext4")
        for writer in ("nofilesync", "nofoldersync", "norename", "earlyprune"):
            found = None
            for n in self.mutating[len(self.mutating) // 2::3]:
                found = self.cut("ext4", n, early=n - 1 if writer in ("nofilesync", "norename") else None, writer=writer)
                if found:
                    print(f"{writer}: cut at call {n}: {found[:100]}")
                    break
            self.assertTrue(found, f"a writer with {writer} lost nothing: the test is blind")


if __name__ == "__main__":
    require_mounts(("ext4", "xfs"))
    unittest.main()
