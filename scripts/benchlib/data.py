"""What is backed up: a tree of many small files, and one big file."""

import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .commands import Failure, output_of, run

SEED = 20261123
PIECE = 64 << 10


@dataclass
class Data:
    """Paths of what is backed up. `folder` is the part of the tree that `cp` copies."""

    source: Path
    tree: Path
    big: Path
    folder: Path
    what: str
    files: int = 0
    sha256: str = ""


def kernel_archive():
    """The newest archive of the Linux sources among Debian's packages that are installed."""
    archives = list(Path("/usr/src").glob("linux-source-*.tar.*"))

    def version(path):
        return [int(n) for n in path.name.split("-")[2].split(".tar")[0].split(".") if n.isdigit()]

    if not archives:
        raise Failure("No /usr/src/linux-source-*.tar.*; install linux-source, or give --tree FOLDER")
    return max(archives, key=version)


def size_of(folder):
    """About how much memory a tree takes on a tmpfs."""
    blocks = 0
    for path in folder.rglob("*"):
        blocks += -(-path.lstat().st_size // 4096) * 4096 + 1024
    return blocks


def tree_bytes(given):
    """What the tree will take: the kernel's 6.1 is 1.5 GB, later ones a little more."""
    return size_of(Path(given)) if given else 1_700_000_000


def bytes_needed(tree, big, repositories):
    """Of memory, for the sources, a copy of a part, and the repositories.

    All of the programs come to about a quarter of the kernel's sources and a little more
    than half of the big file.
    """
    return round(tree * 1.1 + big + repositories * (tree * 0.25 + big * 0.55))


def unpack(archive, tree, timeout, parts=()):
    """The folder in an archive of Linux sources, or some of its folders."""
    tree.mkdir()
    chosen = ["--wildcards", *(f"*/{part}/*" for part in parts)] if parts else []
    run(["tar", "-C", tree, "--strip-components=1", "-xf", archive, *chosen], timeout)


def _lay_tree(tree, given, timeout):
    if given:
        shutil.copytree(given, tree, symlinks=True)
        return str(Path(given).name)
    archive = kernel_archive()
    unpack(archive, tree, timeout)
    package = archive.name.split(".tar")[0]
    version = output_of(["dpkg-query", "-W", "-f", "${Version}", package], 60)
    return f"{package} {version}"


def phrases(draw):
    """Some text to choose from: 512 phrases of about 60 letters."""
    letters = "etaoinshrdlucmfw"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(800)]
    return [(" ".join(draw.choices(words, k=10)) + ". ").encode() for _ in range(512)]


def write_big(path, size, seed=SEED):
    """Half of it can't be compressed and half of it is text, in turns of 64 KiB.

    The same bytes from the same seed, and no two pieces alike: nothing to deduplicate.
    """
    draw = random.Random(seed)
    texts = phrases(draw)
    with open(path, "wb") as file:
        left = size
        while left > 0:
            text = b"".join(draw.choices(texts, k=PIECE // 40))[:PIECE]
            left -= file.write((draw.randbytes(PIECE) + text)[:left])


def lay(source, tree, big_size, folder, timeout):
    """Makes the sources in a new folder."""
    source.mkdir()
    what = _lay_tree(source / "tree", tree, timeout)
    data = Data(source, source / "tree", source / "big", source / "tree" / folder, what)
    if not data.folder.is_dir():
        raise Failure(f"The tree has no folder {folder} to copy; give --copy FOLDER")
    write_big(data.big, big_size)
    data.files = sum(1 for _ in data.tree.rglob("*"))
    return data


def listing(tree, timeout, what=r"%P %y"):
    """Names and kinds of everything in a tree, sorted: what `find` must find."""
    return sorted(output_of(["find", tree, "-printf", what + r"\0"], timeout).split("\0"))


def same_tree(one, other, timeout):
    """Compares contents; raises Failure with the first differences."""
    result = subprocess.run(
        ["diff", "-r", "--no-dereference", one, other], capture_output=True, text=True, timeout=timeout,
        errors="replace", check=False,
    )
    if result.returncode != 0:
        raise Failure("The copy differs:\n" + "\n".join((result.stdout + result.stderr).splitlines()[:5]))
