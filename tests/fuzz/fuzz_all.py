"""fuzz_all.py FAST ASAN OUT SECONDS [CORES]: fuzzes all targets on all cores until 1e8 executions and 1e6 of each, or the
time is over; by hand. FAST and ASAN are folders of fuzz targets. ASAN's have both sanitizers (as scripts/test.sh builds
them) and an eighth of the cores in turn. FAST's are for the bulk: CMAKE_BUILD_TYPE None, CMAKE_CXX_FLAGS "-O2
-D_GLIBCXX_ASSERTIONS -fsanitize=undefined,float-cast-overflow -fno-sanitize=vptr,function -fsanitize-trap=all
-fno-sanitize-coverage=trace-cmp" and no LEMA_SANITIZE. Each process is fuzz.sh's, which has the limits, for some seconds;
those of a target share a corpus. OUT gets the inputs that crashed and what their processes printed. Exit 1 where a target
crashed or did not run."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = sorted(p.name for p in (HERE / "corpus").iterdir())
GOAL, FLOOR = 1e8, 1e6  # executions: of all targets, of each
SLOT = 30  # seconds of one process
CRASHES = 40  # of a target, which is left alone then
SHORT = ["-max_len=512"]  # three in four processes of the bulk: many short inputs


@dataclass
class Tally:
    """What the processes of one build of one target did; `pending` are at work."""
    runs: float = 0
    seconds: float = 0
    crashes: int = 0
    peak_mb: float = 0
    pending: int = 0

    def rate(self):
        return self.runs / self.seconds if self.seconds > 1 else 10_000.0


class Campaign:
    def __init__(self, builds, out, seconds, memory):
        self.builds, self.out, self.memory = builds, out, memory
        self.end = time.time() + seconds
        self.lock = threading.Lock()
        self.slots = 0
        self.tallies = {(build, target): Tally() for build in builds for target in TARGETS}

    def left(self):
        return self.end - time.time()

    def total(self, target):
        return sum(self.tallies[build, target].runs for build in self.builds)

    def is_over(self):
        totals = [self.total(target) for target in TARGETS]
        return self.left() <= 3 or (sum(totals) >= GOAL and min(totals) >= FLOOR)

    def next_of_bulk(self, cores):
        """Every target to its least first, then of those that are quick enough for the goal the one with the least time."""
        fast = {target: self.tallies["fast", target] for target in TARGETS}
        expected = {t: self.total(t) + tally.pending * tally.rate() * SLOT for t, tally in fast.items()}
        targets = [t for t in TARGETS if fast[t].crashes < CRASHES] or TARGETS
        least = min(targets, key=expected.get)
        if expected[least] < FLOOR:
            return least
        need = (GOAL - sum(expected.values())) / (max(1.0, self.left()) * cores)
        quick = [t for t in targets if fast[t].rate() >= need] or [max(targets, key=lambda t: fast[t].rate())]
        return min(quick, key=lambda t: fast[t].seconds + fast[t].pending * SLOT)

    def fuzz(self, build, target, slot, options):
        """One process of fuzz.sh, counted."""
        corpus = self.memory / target
        corpus.mkdir(exist_ok=True)
        command = [HERE / "fuzz.sh", self.builds[build] / f"fuzz_{target}", target, int(max(1, min(SLOT, self.left() - 1))),
                   f"-seed={slot}", "-reload=0", f"-artifact_prefix={self.out}/{target}-{build}-", *options, corpus]
        began = time.time()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
        found = {name: float(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", done.stdout)}
        with self.lock:
            tally = self.tallies[build, target]
            tally.runs += found.get("number_of_executed_units", 0)
            tally.seconds += time.time() - began
            tally.peak_mb = max(tally.peak_mb, found.get("peak_rss_mb", 0))
            tally.pending -= 1
            if done.returncode:
                tally.crashes += 1
                with open(self.out / "log", "a") as log:
                    log.write(f"==== {build} {target} slot {slot} exit {done.returncode}\n{done.stdout}{done.stderr}\n")

    def work(self, build, first, workers):
        """What one core does: ASan's take the targets in turn."""
        turn = first
        while True:
            with self.lock:
                if self.is_over():
                    return
                target = TARGETS[turn % len(TARGETS)] if build == "asan" else self.next_of_bulk(workers)
                self.tallies[build, target].pending += 1
                self.slots += 1
                slot = self.slots
            options = ["-entropic=0", *(SHORT if slot % 4 else [])] if build == "fast" else []
            self.fuzz(build, target, slot, options)
            turn += workers

    def run(self, cores):
        asan = max(1, cores // 8)
        share = {"asan": asan, "fast": max(1, cores - asan)}
        threads = [threading.Thread(target=self.work, args=(build, i, n)) for build, n in share.items() for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def print_table(self):
        print(f"{'target':<18}{'executions':>12}{'of them ASan':>14}{'exec/s':>9}{'ASan/s':>8}{'crashes':>9}{'peak MB':>9}")
        for target in TARGETS:
            fast, asan = self.tallies["fast", target], self.tallies["asan", target]
            print(f"{target:<18}{self.total(target):>12.0f}{asan.runs:>14.0f}{fast.rate():>9.0f}{asan.rate():>8.0f}"
                  f"{fast.crashes + asan.crashes:>9}{max(fast.peak_mb, asan.peak_mb):>9.0f}")
        everything = self.tallies.values()
        print(f"{'all':<18}{sum(map(self.total, TARGETS)):>12.0f}"
              f"{sum(self.tallies['asan', t].runs for t in TARGETS):>14.0f}{'':>17}"
              f"{sum(t.crashes for t in everything):>9}{max(t.peak_mb for t in everything):>9.0f}")


def main():
    builds = {"fast": Path(sys.argv[1]).resolve(), "asan": Path(sys.argv[2]).resolve()}
    out, seconds = Path(sys.argv[3]).resolve(), float(sys.argv[4])
    cores = int(sys.argv[5]) if len(sys.argv) > 5 else os.cpu_count()
    for binary in [build / f"fuzz_{target}" for build in builds.values() for target in TARGETS]:
        if not binary.exists():
            sys.exit(f"{binary} is missing")
    out.mkdir(parents=True, exist_ok=True)
    memory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    began = time.time()
    campaign = Campaign(builds, out, seconds, memory)
    try:
        campaign.run(cores)
    finally:
        shutil.rmtree(memory)
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    print(f"{cores} cores, {model[1] if model else '?'}; {time.time() - began:.0f} s; {campaign.slots} processes")
    campaign.print_table()
    sys.exit(any(t.crashes for t in campaign.tallies.values()) or min(map(campaign.total, TARGETS)) == 0)


if __name__ == "__main__":
    main()
