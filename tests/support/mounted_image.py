"""File systems in memory, mounted for tests of power cuts and full disks. Needs root and loop devices."""
import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time


def shell(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


class Disk:
    """An ext4 or XFS file system, the smallest that has a journal, on a loop device over a file in memory; mounted from
    its making to close(). By system calls: the commands take ten times as long."""
    libc = ctypes.CDLL(None, use_errno=True)

    def __init__(self, name, kind, options=""):
        self.kind, self.options = kind, options
        image = pathlib.Path(f"{name}.image")
        self.place = pathlib.Path(name)
        self.place.mkdir()
        with open(image, "wb") as file:
            file.truncate((24 if kind == "ext4" else 64) << 20)
        small = ["-J", "size=4"] if kind == "ext4" else ["--unsupported", "-l", "size=6m"]
        shell(f"mkfs.{kind}", "-q", *small, image)
        self.device = subprocess.check_output(["losetup", "-f", "--show", image], text=True).strip()
        image.unlink()  # the device holds it
        try:
            self.mount()
        except OSError:
            shell("losetup", "-d", self.device)
            raise

    def call(self, name, *arguments):
        if getattr(self.libc, name)(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"{name} {self.place}: {os.strerror(number)}")

    def mount(self):
        self.call("mount", self.device.encode(), bytes(self.place), self.kind.encode(), 0, self.options.encode() or None)

    def mount_again(self):
        """As after a power cut: what the journal holds is replayed."""
        for attempt in range(100):
            try:
                self.call("umount2", bytes(self.place), 0)
                break
            except OSError as error:
                if error.errno != errno.EBUSY or attempt == 99:  # busy, as of unmount()
                    raise
            time.sleep(0.05)
        self.mount()

    def sync(self):
        folder = os.open(self.place, os.O_RDONLY)
        self.call("syncfs", folder)
        os.close(folder)

    def clear(self):
        """Empty, nothing of it left to be written, and its free blocks zeros: a file that got blocks and no data must not
        find there what an earlier run has written."""
        for path in self.place.iterdir():
            if path.is_dir() and path.name != "lost+found":
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()
        self.sync()
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, 0xC0185879, struct.pack("QQQ", 0, 2**64 - 1, 0))  # FITRIM
        finally:
            os.close(folder)

    def close(self):
        unmount(self.place)
        shell("losetup", "-d", self.device)
        self.place.rmdir()


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
