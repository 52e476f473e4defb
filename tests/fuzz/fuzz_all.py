"""fuzz_all.py FAST ASAN OUT SECONDS [CORES]: fuzzes all targets on all cores until 1e8 executions and 1e6 of each, or the
time is over; by hand. FAST and ASAN are folders of fuzz targets. ASAN's have both sanitizers (as scripts/test.sh builds
them) and a quarter of the cores in turn. FAST's are for the bulk: CMAKE_CXX_FLAGS "-O2 -D_GLIBCXX_ASSERTIONS
-fsanitize=undefined,float-cast-overflow -fno-sanitize=vptr,function -fsanitize-trap=all -fno-sanitize-coverage=trace-cmp"
and no LEMA_SANITIZE; each target is taken to its least first, then the one with the least time among those fast enough
for the goal. All runs of a target share a corpus. OUT gets the inputs that crashed and what the runs printed. Exit 1 where a target
crashed or did not run."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILDS = {"fast": Path(sys.argv[1]), "asan": Path(sys.argv[2])}
OUT, LIMIT = Path(sys.argv[3]), float(sys.argv[4])
CORES = int(sys.argv[5]) if len(sys.argv) > 5 else os.cpu_count()
ASAN = max(1, CORES // 4)
GOAL, FLOOR, SLOT = 1e8, 1e6, 20
TARGETS = sorted(p.name for p in (HERE / "corpus").iterdir())
for binary in [build / f"fuzz_{target}" for build in BUILDS.values() for target in TARGETS]:
    if not binary.exists():
        sys.exit(f"{binary} is missing")
LONG = {"gguf", "tokenizer_json", "tokenizer_model"}
ENV = dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=16:malloc_context_size=4:detect_leaks=1",
           UBSAN_OPTIONS="print_stacktrace=1", LC_ALL="C")
began = time.time()
lock = threading.Lock()
slots = 0
runs, spent, crashes, peak = (defaultdict(float) for _ in range(4))  # by (build, target)
pending = defaultdict(int)


def left():
    return began + LIMIT - time.time()


def fuzz(build, target, seconds):
    global slots
    with lock:
        slots += 1
        slot = slots
    scratch = memory / f"scratch{slot}"
    scratch.mkdir()
    corpus = memory / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    command = [BUILDS[build] / f"fuzz_{target}", f"-seed={slot}", f"-max_total_time={max(1, int(seconds))}", "-timeout=20",
               "-rss_limit_mb=512", "-malloc_limit_mb=256", f"-max_len={8192 if target in LONG else 2048}",
               f"-artifact_prefix={OUT}/{target}-{build}-", f"-dict={HERE}/dictionaries/{target}.dict",
               "-print_final_stats=1", *(["-entropic=0"] if build == "fast" else []), corpus, HERE / "corpus" / target]
    start = time.time()
    try:
        done = subprocess.run(list(map(str, command)), env=dict(ENV, TMPDIR=str(scratch)), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=max(5, min(seconds + 60, left() + 15)))
        text, code = done.stdout.decode("utf-8", "replace"), done.returncode
    except subprocess.TimeoutExpired as late:
        text, code = (late.stdout or b"").decode("utf-8", "replace"), 0  # the time is over
    shutil.rmtree(scratch, ignore_errors=True)
    found = {k: float(v) for k, v in re.findall(r"stat::(\w+):\s+(\d+)", text)}
    units = found.get("number_of_executed_units")
    if units is None:  # killed: the last count it printed
        counts = re.findall(r"^#(\d+)\s", text, re.M)
        units = float(counts[-1]) if counts else 0
    key = build, target
    with lock:
        runs[key] += units
        spent[key] += time.time() - start
        peak[key] = max(peak[key], found.get("peak_rss_mb", 0))
        if code:
            crashes[key] += 1
            log.write(f"==== {build} {target} slot {slot} exit {code}\n" + "\n".join(text.splitlines()[-80:]) + "\n")
            log.flush()


def finished():
    with lock:
        totals = [total(t) for t in TARGETS]
    return sum(totals) >= GOAL * 1.02 and min(totals) >= FLOOR


def asan_worker(first):
    turn = first
    while left() > 3 and not finished():
        fuzz("asan", TARGETS[turn % len(TARGETS)], min(SLOT, left() - 1))
        turn += ASAN


def rate(target):
    key = "fast", target
    return runs[key] / spent[key] if spent[key] > 1 else 10_000.0


def total(target):
    return runs["fast", target] + runs["asan", target]


def pick():
    with lock:
        expected = {t: total(t) + pending[t] * rate(t) * SLOT for t in TARGETS}
        alive = [t for t in TARGETS if crashes["fast", t] < 40] or TARGETS
        least = min(alive, key=lambda t: expected[t])
        if expected[least] >= FLOOR:
            need = (GOAL * 1.03 - sum(expected.values())) / max(1.0, left() * (CORES - ASAN))
            quick = [t for t in alive if rate(t) >= need]
            least = min(quick, key=lambda t: spent["fast", t] + pending[t] * SLOT) if quick else max(alive, key=rate)
        pending[least] += 1
        return least


def bulk_worker():
    while left() > 3 and not finished():
        target = pick()
        fuzz("fast", target, min(SLOT, left() - 1))
        with lock:
            pending[target] -= 1


OUT.mkdir(parents=True, exist_ok=True)
log = open(OUT / "log", "w")
memory = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
workers = [threading.Thread(target=asan_worker, args=(i,)) for i in range(ASAN)]
workers += [threading.Thread(target=bulk_worker) for _ in range(max(1, CORES - ASAN))]
for w in workers:
    w.start()
for w in workers:
    w.join()
shutil.rmtree(memory)

model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
print(f"{CORES} cores, {model[1] if model else '?'}; {time.time() - began:.0f} s; {slots} slots")
print(f"{'target':<18}{'executions':>12}{'of them ASan':>14}{'exec/s':>9}{'ASan/s':>8}{'crashes':>9}{'peak MB':>9}")
for t in TARGETS:
    f, a = ("fast", t), ("asan", t)
    print(f"{t:<18}{total(t):>12.0f}{runs[a]:>14.0f}{rate(t):>9.0f}{runs[a] / max(1, spent[a]):>8.0f}"
          f"{crashes[f] + crashes[a]:>9.0f}{max(peak[f], peak[a]):>9.0f}")
print(f"{'all':<18}{sum(map(total, TARGETS)):>12.0f}{sum(runs['asan', t] for t in TARGETS):>14.0f}"
      f"{sum(map(total, TARGETS)) / (time.time() - began):>9.0f}{'':>8}{sum(crashes.values()):>9.0f}{max(peak.values()):>9.0f}")
sys.exit(any(crashes.values()) or min(map(total, TARGETS)) == 0)
