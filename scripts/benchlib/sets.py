"""The sets of files of the group `backup`, and how each changes between two backups.

Everything comes from public packages of fixed versions and from fixed seeds.
"""

import filecmp
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import data
from .commands import Failure, run

MB = 1_000_000
# Of the kernel's sources, for --quick.
SOME = ("fs", "kernel", "net")


def unpacked(variable, tree, timeout, parts):
    archive = os.environ.get(variable)
    if not archive:
        raise Failure(f"{variable} names no archive of Linux sources")
    data.unpack(archive, tree, timeout, parts)


class Change:
    """Files of a tree that get other contents, or come, or go, and back again."""

    def __init__(self, tree, room, paths, later):
        """`later(path, target)` makes the later state of a file; nothing if it goes."""
        self.tree = tree
        self.paths = paths
        self.states = (room / "before", room / "after")
        for path in paths:
            before, after = (state / path for state in self.states)
            before.parent.mkdir(parents=True, exist_ok=True)
            after.parent.mkdir(parents=True, exist_ok=True)
            if (tree / path).is_symlink() or (tree / path).exists():
                shutil.copy2(tree / path, before, follow_symlinks=False)
            later(path, after)

    def _to(self, state):
        for path in self.paths:
            here, source = self.tree / path, state / path
            here.unlink(missing_ok=True)
            if source.is_symlink() or source.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, here, follow_symlinks=False)

    def apply(self):
        self._to(self.states[1])

    def undo(self):
        self._to(self.states[0])


def files_of(tree):
    return sorted(p.relative_to(tree) for p in tree.rglob("*") if p.is_symlink() or p.is_file())


def edit(tree, room, count, seed):
    """A line more in some files."""
    paths = [path for path in files_of(tree) if not (tree / path).is_symlink()]
    chosen = random.Random(seed).sample(paths, min(count, len(paths)))

    def later(path, target):
        shutil.copy2(tree / path, target)
        with open(target, "ab") as file:
            file.write(b"/* a line more */\n")
        os.utime(target, (1_700_000_000 + seed, 1_700_000_000 + seed))

    return Change(tree, room, chosen, later)


def release(tree, newer, room):
    """What differs in a newer tree."""
    both = sorted(set(files_of(tree)) | set(files_of(newer)))

    def differs(path):
        one, other = tree / path, newer / path
        if one.is_symlink() or other.is_symlink():
            return not (one.is_symlink() and other.is_symlink() and os.readlink(one) == os.readlink(other))
        return not (one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False))

    def later(path, target):
        if (newer / path).is_symlink() or (newer / path).exists():
            shutil.copy2(newer / path, target, follow_symlinks=False)

    return Change(tree, room, [path for path in both if differs(path)], later)


class Patch:
    """Places of one file that get other bytes, and back again."""

    def __init__(self, path, places, draw):
        self.path = path
        self.states = ([], [])
        with open(path, "rb") as file:
            for at, length in places:
                file.seek(at)
                before = file.read(length)
                half = len(before) // 2
                self.states[0].append((at, before))
                self.states[1].append((at, draw.randbytes(half) + before[half:][::-1]))

    def _to(self, state):
        with open(self.path, "r+b") as file:
            for at, content in state:
                file.seek(at)
                file.write(content)

    def apply(self):
        self._to(self.states[1])

    def undo(self):
        self._to(self.states[0])


@dataclass
class Laid:
    """`path` is backed up; the changes are made one after the other."""

    path: Path
    what: str
    changes: tuple = ()


def kernel(folder, quick, timeout):
    tree = folder / "linux"
    unpacked("BENCH_KERNEL", tree, timeout, SOME if quick else ())
    if quick:
        first = edit(tree, folder / "release", 300, 1)
    else:
        newer = folder / "newer"
        unpacked("BENCH_KERNEL_NEXT", newer, timeout, ())
        first = release(tree, newer, folder / "release")
        shutil.rmtree(newer)
    edits = [edit(tree, folder / f"edit-{number}", 200, number) for number in (2, 3)]
    return Laid(tree, f"Linux sources, {len(first.paths):,} paths change", (first, *edits))


def big(folder, quick, _timeout):
    size = (256 if quick else 2147) * MB
    path = folder / "big"
    path.mkdir()
    data.write_big(path / "big", size)
    return Laid(path, f"a file of {size // MB:,} MB, half compressible")


def image(folder, quick, timeout):
    """An ext4 image with the kernel's sources and a big file in it."""
    path, content = folder / "image", folder / "content"
    path.mkdir()
    content.mkdir()
    unpacked("BENCH_KERNEL", content / "linux", timeout, SOME if quick else ())
    data.write_big(content / "big", (100 if quick else 900) * MB)
    disk = path / "disk.img"
    fixed = "7f3a0d86-43a1-4a8e-9a50-2f5d0c1e7b11"
    extended = f"hash_seed={fixed},root_owner=0:0,lazy_itable_init=0"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-U", fixed, "-E", extended, "-d", content, disk]
    run([*command, "512M" if quick else "4G"], timeout, {**os.environ, "E2FSPROGS_FAKE_TIME": "1700000000"})
    shutil.rmtree(content)
    change = Patch(disk, places(disk, 256 << 10, 0.05), random.Random(data.SEED))
    held = disk.stat().st_blocks * 512 // MB
    return Laid(path, f"a sparse disk image of {disk.stat().st_size // MB:,} MB with {held:,} MB, 5 % change", (change,))


def places(path, length, share):
    """Some of a file's runs of data, this share of all of them."""
    draw = random.Random(data.SEED)
    found = []
    size = path.stat().st_size
    with open(path, "rb", buffering=0) as file:
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found += [(place, min(length, at - place)) for place in range(start, at, length)]
    return draw.sample(found, round(len(found) * share))


def tiny(folder, quick, _timeout):
    """Files of up to 4 kB, a hundred in a folder; a quarter of each can't be compressed."""
    tree = folder / "tiny"
    count = 20_000 if quick else 300_000
    draw = random.Random(data.SEED)
    texts = data.phrases(draw)
    total = 0
    for number in range(count):
        if number % 100 == 0:
            below = tree / f"{number // 10_000:03}" / f"{number // 100:05}"
            below.mkdir(parents=True)
        size = draw.randrange(4000)
        noise = draw.randbytes(size // 4)
        content = (noise + b"".join(draw.choices(texts, k=size // 60 + 1)))[:size]
        (below / f"{number:06}.txt").write_bytes(content)
        total += size
    return Laid(tree, f"{count:,} files of {total / MB:,.0f} MB")
