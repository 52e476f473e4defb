"""What a running process holds in memory, as the kernel counts it. Standard library only."""
import os
import pathlib
import re
import subprocess
import tempfile
import time

# Whether bounds of memory and time hold: those of a build with sanitizers are not lema's own.
BOUNDED = "LEMA_SANITIZED" not in os.environ


def run_and_watch(command, every=0.004):
    """(exit code, standard error, highest {"RssAnon", "RssFile", "VmHWM"} in bytes) of a command."""
    peak = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody empties would stop a long run
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=errors)
        status = pathlib.Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                for name, kib in re.findall(r"^(RssAnon|RssFile|VmHWM):\s+(\d+) kB", status.read_text(), re.MULTILINE):
                    peak[name] = max(peak[name], int(kib) * 1024)
            except OSError:
                break
            time.sleep(every)
        code = process.wait()
        errors.seek(0)
        return code, errors.read(), peak
