"""What training steps make of a disk or a bus: their time beside that of the same bytes moved by nothing else. The rate of
a virtual machine's disk and bus wavers from one second to the next, so that the run stands still (SIGSTOP) after every
second step while a program of its own takes the rate. Of bench_disk.py and bench_gpu.py."""
import json
import pathlib
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "support"))
from checksum_thread import reads_checksum  # noqa: E402


def read_alone(reader, model):
    """Bytes per second of reading all weights past the page cache (tests/bench/disk.cpp)."""
    result = subprocess.run([reader, model, "direct"], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)["bytes_per_s"]


def steps_of(output):
    metrics = output / "metrics.jsonl"
    lines = metrics.read_text().rpartition("\n")[0].splitlines() if metrics.exists() else []
    return [m for m in map(json.loads, lines) if "step_ms" in m]


def read_beside(process, read):
    """read() while the process stands still; where it fails, the process ends."""
    process.send_signal(signal.SIGSTOP)
    try:
        return read()
    except BaseException:
        process.kill()
        raise
    finally:
        process.send_signal(signal.SIGCONT)


def run_beside_readings(command, output, step_count, read):
    """Runs a training command of that many steps with read() before it, after every second step and after it. Returns
    the exit code, the rates, and the metrics of the steps that had disk and memory to themselves, which the first ones
    share with the checksum of the weights: "own_ms" is step_ms less a pause, "paused" whether there was one, "rate" the
    (harmonic) mean of those around it, "read_ms" the time of its bytes from disk at that."""
    rates, paused, done, shared = {0: read()}, {}, 0, None
    with open(output.with_name(output.name + ".log"), "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.005)
            count = len(steps_of(output))
            if shared is None and count > 1 and not reads_checksum(process.pid):
                shared = count + (count == done)
            if count == done:
                continue
            done = count
            if done % 2 == 0 and done < step_count:
                start = time.monotonic()
                rates[done] = read_beside(process, read)
                paused[done + 1] = 1000 * (time.monotonic() - start)
    if process.returncode != 0:
        return process.returncode, rates, []
    rates[step_count] = read()
    steps = steps_of(output)
    for number, step in enumerate(steps, 1):
        before, after = rates[max(n for n in rates if n < number)], rates[min(n for n in rates if n >= number)]
        step["own_ms"], step["paused"] = step["step_ms"] - paused.get(number, 0), number in paused
        step["rate"] = 2 / (1 / before + 1 / after)
        step["read_ms"] = 1000 * step["disk_bytes"] / step["rate"]
    return 0, rates, steps[shared or step_count:]
