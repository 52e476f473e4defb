"""What a running process holds in memory, as the kernel counts it. Standard library only."""
import os
import pathlib
import re
import subprocess
import time

# Whether bounds of memory and time hold: those of a build with sanitizers are not lema's own.
BOUNDED = "LEMA_SANITIZED" not in os.environ


def run_and_watch(command, every=0.004):
    """(exit code, standard error, highest {"RssAnon", "RssFile", "VmHWM"} in bytes) of a command."""
    peak = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    status = pathlib.Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            for name, kib in re.findall(r"^(RssAnon|RssFile|VmHWM):\s+(\d+) kB", status.read_text(), re.MULTILINE):
                peak[name] = max(peak[name], int(kib) * 1024)
        except OSError:
            break
        time.sleep(every)
    errors = process.stderr.read()
    process.stderr.close()
    return process.wait(), errors, peak
