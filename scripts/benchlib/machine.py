"""The machine: its memory, its caches, and a scratch folder that lies in memory."""

import os
import platform
import shutil
import tempfile
from pathlib import Path

from .commands import Failure, run

# For the programs themselves and everything else, beside what lies in the scratch folder.
SPARE = 3 << 30


def as_root(*arguments, timeout=60):
    """Runs a command that only root may."""
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    return run([*prefix, *arguments], timeout)


def drop_caches():
    as_root("sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")


def read_through(paths):
    """Brings files back into the page cache after it was dropped."""
    for path in paths:
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        for file in files:
            with open(file, "rb", buffering=0) as opened:
                while opened.read(1 << 20):
                    pass


def mounts():
    """Mount points and the kinds of their file systems, in order of mounting."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        point = fields[4]
        for escape, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
            point = point.replace(escape, plain)
        yield point, fields[fields.index("-", 6) + 1]


def is_mounted(path):
    """Asks the kernel's list, not the file system: one that hangs would hang us, too."""
    return any(point == str(path) for point, _ in mounts())


def is_in_memory(path):
    """Whether a folder lies on a tmpfs."""
    path = Path(path).resolve()
    holders = [(point, kind) for point, kind in mounts() if Path(point) in (path, *path.parents)]
    return max(holders, key=lambda holder: len(holder[0]), default=("", ""))[1] == "tmpfs"


def memory(field):
    """A figure of /proc/meminfo, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failure(f"/proc/meminfo has no {field}")


def check_room(needed, folder=None):
    """Refuses to begin with what would not fit in memory."""
    if memory("MemAvailable") < needed + SPARE:
        raise Failure(
            f"This needs {needed / 1e9:.1f} GB in memory and {SPARE / 1e9:.1f} GB beside it, but only "
            f"{memory('MemAvailable') / 1e9:.1f} GB are free; choose --big-size, --tree or --only"
        )
    if folder is not None and shutil.disk_usage(folder).free < needed:
        raise Failure(f"{folder} has no room for {needed / 1e9:.1f} GB; --scratch names another folder")


def description():
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory": memory("MemTotal"),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


class Scratch:
    """A new folder in memory: inside `above`, with a tmpfs mounted on it if need be."""

    def __init__(self, above, needed):
        above = Path(above or "/dev/shm").resolve()
        in_memory = is_in_memory(above)
        check_room(needed, above if in_memory else None)
        self.path = Path(tempfile.mkdtemp(prefix="tresor-bench.", dir=above))
        self.mounted = False
        if not in_memory:
            try:
                size = f"size={needed * 3 // 2},mode=700,uid={os.geteuid()}"
                as_root("mount", "-t", "tmpfs", "-o", size, "tmpfs", self.path)
                self.mounted = True
            except BaseException:
                self.path.rmdir()
                raise

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        # Never into a drive that could not be unmounted.
        left = [point for point, _ in mounts() if point.startswith(f"{self.path}/")]
        if left:
            print(f"Still mounted, so {self.path} stays: {' '.join(left)}")
            return
        if self.mounted:
            as_root("umount", self.path)
        shutil.rmtree(self.path, ignore_errors=True)
