"""The thread in which a fresh run reads its weights once more, for their checksum, beside its first steps. Used by tests of
files that change under a run and by scripts that measure its reads."""
import pathlib


def reads_checksum(pid):
    """Whether it still runs: it is the only thread of the lowest priority. It begins before the first step."""
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[16] == "19":
                return True
        except OSError:
            pass  # a thread that has just ended
    return False
