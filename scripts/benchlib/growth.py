"""The group `growth`: how the cost of a backup grows with the files, and that of opening with the index.

The files lie nowhere (testkit/src/forest.rs); the repositories on a disk, as they are too large for
memory; the local copies of the index in memory.
"""

import json
import math
import os
import random
import shutil
import tempfile
from pathlib import Path

from . import table
from .commands import Failure, output_of, run
from .mounted import Mounted
from .phases import Phase, Step, say
from .programs import KINDS, Program, executable_of
from .scale import least
from .usage import observe, own_memory

MB = 1e6
LOOKUPS = 200_000
# Of the local copy of the index for each blob, with what a merge needs beside it.
INDEX_BYTES = 70
TERABYTE = 1 << 40
PIECE = 128 << 10

# Directories, and files in each: five sizes of one shape, and one large directory.
FILES = {
    "100k files": (100, 1000),
    "300k files": (300, 1000),
    "1M files": (1000, 1000),
    "3M files": (3000, 1000),
    "10M files": (10_000, 1000),
    "1M in one directory": (1, 1_000_000),
}
QUICK_FILES = {
    "1k files": (1, 1000),
    "3k files": (3, 1000),
    "10k files": (10, 1000),
    "30k files": (30, 1000),
    "100k files": (100, 1000),
    "30k in one directory": (1, 30_000),
}
BLOBS = {
    "1M chunks": 1_000_000,
    "3M chunks": 3_000_000,
    "10M chunks": 10_000_000,
    "30M chunks": 30_000_000,
    "100M chunks": 100_000_000,
}
QUICK_BLOBS = {name.replace("M", "0k"): blobs // 100 for name, blobs in BLOBS.items()}

FILE_PHASES = (
    Phase("backup_cpu", "first backup, processor time", "s"),
    Phase("backup_memory", "first backup, own memory", "MB", 0, limit=200),
    Phase("again_cpu", "unchanged backup, processor time", "s"),
    Phase("again_memory", "unchanged backup, own memory", "MB", 0, limit=200),
    Phase("file_stored", "stored for each file", "B", 0),
)
BLOB_PHASES = (
    Phase("first_cpu", "open, no cache yet, processor time", "s"),
    Phase("first_memory", "open, no cache yet, own memory", "MB", 0, limit=200),
    Phase("open", "open", "s", limit=1),
    Phase("lookup", "find a blob", "µs", limit=20),
    Phase("open_memory", "open, own memory", "MB", 0, limit=200),
    Phase("first_ls", "mount to first ls", "s", limit=2),
    Phase("mount_memory", "mount, own memory", "MB", 0, limit=200),
    Phase("snapshots_cpu", "snapshots, processor time", "s"),
)
SPARSE_PHASES = (
    Phase("sparse_backup_cpu", "backup, processor time", "s"),
    Phase("sparse_backup_memory", "backup, own memory", "MB", 0, limit=200),
    Phase("sparse_restore_cpu", "restore, processor time", "s"),
    Phase("sparse_restore_memory", "restore, own memory", "MB", 0, limit=200),
    Phase("sparse_restored", "on the disk afterwards", "MB", 0),
    Phase("sparse_repository", "repository", "MB", 0),
)

NOTES = (
    "Files of 200 bytes, in directories of 1,000; chunks of 128 KiB, so that 100M of them are about 12 TB.",
    "Figures are the least of all rounds. own memory: the most seen of RssAnon, which leaves out the mapped index,",
    "57 bytes a chunk that the kernel may drop. growth: the power of the number with which the figure has",
    "grown over the five sizes' last two steps; 1 is in proportion. The bar counts in every column.",
)


class Place(Program):
    """tresor with one repository on a disk."""

    def __init__(self, group, name):
        super().__init__(KINDS["tresor"], executable_of("tresor"), group.scratch / name.replace(" ", "-"))
        self.name = name
        self.lay_room()
        self.cache = self.room / "cache"
        self.repository = group.disk / name.replace(" ", "-")

    def clear(self):
        shutil.rmtree(self.repository, ignore_errors=True)
        shutil.rmtree(self.room, ignore_errors=True)


class Part:
    """One size: made, measured, and removed before the next one."""

    def __init__(self, group, name, phases):
        self.group, self.name, self.phases = group, name, phases
        self.place = None

    def prepare(self, _wanted, results):
        try:
            self.place = Place(self.group, self.name)
            self.make()
        except (Failure, OSError) as failure:
            say(f"{self.name} FAILED: {failure}")
            results.fail(self.name, [phase.key for phase in self.phases], str(failure))
            return []
        return [self.place]

    def make(self):
        """What all rounds need."""

    def steps(self):
        return (Step(self.name, tuple(phase.key for phase in self.phases), self.measure),)

    def clear(self):
        if self.place:
            self.place.clear()

    def synthetic(self, *words):
        return [self.group.maker, *words]

    def observe(self, command):
        usage = observe(command, self.group.timeout, self.place.environment(), memory=own_memory)
        return usage.processor, usage.memory / MB


class FilesPart(Part):
    def measure(self, place):
        shutil.rmtree(place.repository, ignore_errors=True)
        shutil.rmtree(place.cache, ignore_errors=True)
        directories, files = self.group.files[self.name]
        command = self.synthetic("backup", place.repository, place.password, place.cache, directories, files)
        first, again = self.observe(command), self.observe(command)
        stored = sum(file.stat().st_size for file in place.repository.rglob("*") if file.is_file())
        return {
            "backup_cpu": first[0],
            "backup_memory": first[1],
            "again_cpu": again[0],
            "again_memory": again[1],
            "file_stored": stored / (directories * files),
        }


class BlobsPart(Part):
    def make(self):
        command = self.synthetic("index", self.place.repository, self.place.password, self.group.blobs[self.name])
        seconds = run(list(map(str, command)), self.group.timeout)
        say(f"{self.name}: made in {seconds:.1f} s")

    def measure(self, place):
        shutil.rmtree(place.cache, ignore_errors=True)
        command = self.synthetic("lookup", place.repository, place.password, place.cache, LOOKUPS)
        first = self.observe(command)
        again = json.loads(output_of(list(map(str, command)), self.group.timeout))
        _, memory = self.observe(command)
        with Mounted(place, None, self.group.timeout, drop=False) as mounted:
            mount_memory = own_memory(mounted.process.pid)
        snapshots, _ = self.observe([place.executable, "snapshots"])
        return {
            "first_cpu": first[0],
            "first_memory": first[1],
            "open": again["open"],
            "lookup": again["lookup"] * 1e6,
            "open_memory": memory,
            "first_ls": mounted.first_ls,
            "mount_memory": mount_memory / MB,
            "snapshots_cpu": snapshots,
        }


class SparsePart(Part):
    """A file of 1 TiB with 200 MB of data, on a real disk."""

    def make(self):
        self.file = self.group.disk / "source" / "image"
        self.file.parent.mkdir()
        pieces = random.Random(7).sample(range(TERABYTE // PIECE), 200_000_000 // PIECE)
        with open(self.file, "wb") as file:
            file.truncate(TERABYTE)
            for number in sorted(pieces):
                file.seek(number * PIECE)
                file.write(random.Random(number).randbytes(PIECE))
        self.pieces = pieces

    def measure(self, place):
        shutil.rmtree(place.repository, ignore_errors=True)
        target = self.group.disk / "restored"
        shutil.rmtree(target, ignore_errors=True)
        run([place.executable, "init"], self.group.timeout, place.environment())
        backup = self.observe([place.executable, "backup", "--quiet", self.file])
        restore = self.observe([place.executable, "restore", "--quiet", "latest", "--target", target])
        restored = target / str(self.file)[1:]
        self.compare(restored)
        return {
            "sparse_backup_cpu": backup[0],
            "sparse_backup_memory": backup[1],
            "sparse_restore_cpu": restore[0],
            "sparse_restore_memory": restore[1],
            "sparse_restored": restored.stat().st_blocks * 512 / MB,
            "sparse_repository": sum(f.stat().st_size for f in place.repository.rglob("*") if f.is_file()) / MB,
        }

    def compare(self, restored):
        if restored.stat().st_size != TERABYTE:
            raise Failure(f"{restored} has {restored.stat().st_size} bytes")
        with open(restored, "rb") as file:
            for number in self.pieces:
                file.seek(number * PIECE)
                if file.read(PIECE) != random.Random(number).randbytes(PIECE):
                    raise Failure(f"{restored} differs at {number * PIECE}")

    def clear(self):
        super().clear()
        for folder in ("source", "restored"):
            shutil.rmtree(self.group.disk / folder, ignore_errors=True)


class Growth:
    """All sizes, one after the other."""

    notes = NOTES
    programs = ("tresor",)

    def __init__(self, options, scratch):
        self.files, self.blobs = (QUICK_FILES, QUICK_BLOBS) if options.quick else (FILES, BLOBS)
        self.timeout = max(options.timeout, 3600)
        self.scratch = Path(scratch)
        maker = os.environ.get("TRESOR_SYNTHETIC")
        if not maker:
            raise Failure("TRESOR_SYNTHETIC must name the built testkit/examples/synthetic.rs")
        self.maker = Path(maker)
        # Removed when the program ends, however that comes.
        self.temporary = tempfile.TemporaryDirectory(prefix="tresor-bench.", dir=os.environ.get("BENCH_DISK", "/var/tmp"))
        self.disk = Path(self.temporary.name)

    @staticmethod
    def bytes_needed(options, _programs):
        return 200_000_000 + INDEX_BYTES * max((QUICK_BLOBS if options.quick else BLOBS).values())

    def about(self):
        return [{"files": self.files, "blobs": self.blobs}]

    def headline(self):
        return f"{', '.join(self.files)} files; {', '.join(self.blobs)} chunks; a sparse file of 1 TiB"

    def named(self, _wanted):
        return list(self.files)[:1]

    def parts(self):
        yield from (FilesPart(self, name, FILE_PHASES) for name in self.files)
        yield from (BlobsPart(self, name, BLOB_PHASES) for name in self.blobs)
        yield SparsePart(self, "sparse", SPARSE_PHASES)

    def tables(self):
        """Phases, and the columns with how many things each is about."""
        files = {name: directories * files for name, (directories, files) in self.files.items()}
        return (
            ("files", FILE_PHASES, files),
            ("chunks", BLOB_PHASES, self.blobs),
            ("1 TiB, 200 MB of data", SPARSE_PHASES, {"sparse": 1}),
        )

    def as_text(self, results, _wanted):
        texts = []
        for what, phases, columns in self.tables():
            head = [what, "", *(name.removesuffix(f" {what}") for name in columns), "growth", "bar", "met"]
            rows = [self._row(phase, results, columns) for phase in phases]
            texts.append(table.aligned([head, *rows]))
        texts.append(table.failures_text((), results))
        return "\n\n".join(filter(None, texts))

    def _row(self, phase, results, columns):
        figures = [least(results, Named(name), phase) for name in columns]
        cells = ["failed" if f is None else table.number(f, phase.decimals) for f in figures]
        power = growth(figures, list(columns.values()))
        power = "–" if power is None else f"{power:.2f}"
        return [phase.title, phase.unit, *cells, power, table.bar_text(phase), met_text(phase, figures)]

    def as_json(self, results, _wanted):
        return [
            {
                "phase": phase.key,
                "title": phase.title,
                "unit": phase.unit,
                "figures": {
                    name: {
                        "least": least(results, Named(name), phase),
                        "runs": results.runs(name, phase.key),
                        "failure": results.failure(name, phase.key),
                    }
                    for name in columns
                },
                "bar_limit": phase.limit,
            }
            for _, phases, columns in self.tables()
            for phase in phases
        ]


class Named:
    """A column, by its name."""

    def __init__(self, name):
        self.name = name


def growth(figures, sizes):
    """None if it failed, or is too little to tell."""
    if len(figures) < 5 or not figures[2] or not figures[4]:
        return None
    return math.log(figures[4] / figures[2]) / math.log(sizes[4] / sizes[2])


def met_text(phase, figures):
    if phase.limit is None:
        return ""
    return "yes" if all(figure is not None and figure <= phase.limit for figure in figures) else "NO"
