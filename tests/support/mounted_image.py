"""A file system in a file on tmpfs, mounted for a test of power cuts or full disks. Needs root and loop devices."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time


def shell(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def make_image(path, kind):
    """An empty ext4 or XFS file system: the smallest that has a journal."""
    with open(path, "wb") as image:
        image.truncate((24 if kind == "ext4" else 300) << 20)
    shell(*(["mkfs.ext4", "-q", "-J", "size=4"] if kind == "ext4" else ["mkfs.xfs", "-q", "-f"]), path)


def copy_image(source, target):
    """Holes stay holes."""
    shell("cp", "--sparse=always", source, target)


@contextlib.contextmanager
def mounted(source, folder, *options):
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    shell("mount", *options, source, folder)
    try:
        yield folder
    finally:
        unmount(folder)


def unmount(folder):
    """A child that another thread starts holds the open files of this one until its program runs."""
    for _ in range(100):
        if subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    shell("umount", folder)


def require_mounts(kinds=()):
    """Ends the test as skipped where this machine cannot mount, unless it is CI's: there that is a failure."""
    lacks = [f"mkfs.{kind}" for kind in kinds if not shutil.which(f"mkfs.{kind}")]
    if os.geteuid() != 0 or not pathlib.Path("/dev/loop-control").exists():
        lacks.append("root and loop devices")
    if not lacks:
        return
    print(f"SKIPPED: {', '.join(lacks)} missing: no power is cut and no disk is filled here")
    sys.exit(1 if os.environ.get("CI") == "true" else 77)
