"""The group `scale`: what commands cost as a repository grows, without its payload.

The repositories are made by testkit/examples/synthetic.rs: index objects, trees and
snapshots are real, packs of chunks are files that consist of a hole.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import table
from .commands import Failure, output_of, run
from .mounted import Mounted
from .phases import Phase, Step, say
from .programs import KINDS, Program, executable_of
from .usage import observe, own_memory

MB = 1e6
LOOKUPS = 200_000
# Bytes in memory for each chunk: index object, run, a merge of runs, trees.
CHUNK_BYTES = 450
SPARE_BYTES = 200_000_000


@dataclass(frozen=True)
class Size:
    """See tresor_testkit::synthetic::Size."""

    name: str
    snapshots: int
    directories: int
    files: int
    chunks: int
    changed: int

    @property
    def blobs(self):
        return self.files * (self.directories * self.chunks + (self.snapshots - 1) * self.changed // self.files)


# Five sizes of one shape, and two shapes of their own: files × snapshots, and snapshots.
SIZES = (
    Size("100k", 60, 10, 1000, 10, 20),
    Size("300k", 125, 30, 1000, 10, 20),
    Size("1M", 250, 100, 1000, 10, 20),
    Size("3M", 500, 300, 1000, 10, 20),
    Size("10M", 1000, 1000, 1000, 10, 20),
    Size("1Mx100", 100, 1000, 1000, 1, 200),
    Size("10000s", 10_000, 100, 10, 1, 2),
)
QUICK = (
    Size("1k", 6, 1, 100, 10, 2),
    Size("3k", 12, 3, 100, 10, 2),
    Size("10k", 25, 10, 100, 10, 2),
    Size("30k", 50, 30, 100, 10, 2),
    Size("100k", 100, 100, 100, 10, 2),
    Size("100kx20", 20, 100, 1000, 1, 20),
    Size("1000s", 1000, 10, 10, 1, 2),
)
GROWING = 5
COMMANDS = {
    "snapshots": ("snapshots",),
    "forget": ("forget", "--dry-run", "--policy", "service"),
    "find": ("find", "file-0000001*.dat"),
    "stats": ("stats",),
    "check": ("check",),
    "prune": ("prune", "--dry-run"),
}

PHASES = (
    Phase("open_first", "open, no cache yet", "s"),
    Phase("open", "open", "s", limit=1),
    Phase("lookup", "find a blob", "µs", limit=20),
    Phase("first_ls_cold", "mount to first ls, no cache yet", "s"),
    Phase("first_ls", "mount to first ls", "s", limit=1),
    *(Phase(key, " ".join(words), "s") for key, words in COMMANDS.items()),
    *(Phase(f"{key}_cpu", f"{words[0]}, processor time", "s") for key, words in COMMANDS.items()),
    *(Phase(f"{key}_memory", f"{words[0]}, own memory", "MB", 0, limit=200) for key, words in COMMANDS.items()),
    Phase("mount_memory", "mount, own memory", "MB", 0, limit=200),
)

NOTES = (
    "Columns: chunks in the repository; then files x snapshots; then snapshots. Each figure is the least",
    "of all rounds. open and find a blob: inside a process, which hashes the password at the least cost; the",
    "others: whole commands. no cache yet: every index object is read. own memory: the most seen of RssAnon, which leaves",
    "out the mapped index, 56 bytes a blob that the kernel may drop. growth: the power of the number of",
    f"blobs with which the figure has grown over the {GROWING} sizes' last two steps; 1 is in proportion. The bar",
    "counts in every column.",
)


class Sized(Program):
    """tresor with the repository of one size."""

    def __init__(self, executable, room, size):
        super().__init__(KINDS["tresor"], executable, room)
        self.name = size.name
        self.size = size
        self.cache = self.room / "cache"

    def forget_cache(self):
        shutil.rmtree(self.cache, ignore_errors=True)


class Scale:
    """The group's repositories, and how each step is measured."""

    notes = NOTES
    phases = PHASES
    programs = ("tresor",)

    def __init__(self, options, scratch):
        self.sizes = QUICK if options.quick else SIZES
        self.timeout = options.timeout
        self.scratch = Path(scratch)
        maker = os.environ.get("TRESOR_SYNTHETIC")
        if not maker:
            raise Failure("TRESOR_SYNTHETIC must name the built testkit/examples/synthetic.rs")
        self.maker = Path(maker)

    @staticmethod
    def bytes_needed(options, _programs):
        sizes = QUICK if options.quick else SIZES
        return SPARE_BYTES + sum(size.blobs * CHUNK_BYTES for size in sizes)

    def about(self):
        return [vars(size) for size in self.sizes]

    def headline(self):
        return ", ".join(size.name for size in self.sizes)

    def named(self, _wanted):
        """All are the same program."""
        return [self.sizes[0].name]

    def prepare(self, _names, results):
        ready = []
        for size in self.sizes:
            program = Sized(executable_of("tresor"), self.scratch / size.name, size)
            program.lay_room()
            program.bring_code(self.scratch / "code")
            numbers = (size.snapshots, size.directories, size.files, size.chunks, size.changed)
            command = [self.maker, program.repository, program.password, *map(str, numbers)]
            try:
                seconds = run(command, self.timeout)
            except (Failure, OSError) as failure:
                say(f"{size.name} FAILED: {failure}")
                results.fail(size.name, [phase.key for phase in PHASES], str(failure))
                continue
            say(f"{size.name}: made in {seconds:.1f} s")
            ready.append(program)
        return ready

    def steps(self):
        return (
            Step("open", ("open_first", "open", "lookup"), self.open),
            Step("first ls", ("first_ls_cold", "first_ls", "mount_memory"), self.first_ls),
            *(
                Step(key, (key, f"{key}_cpu", f"{key}_memory"), lambda program, key=key: self.command(program, key))
                for key in COMMANDS
            ),
        )

    def open(self, program):
        def opened():
            command = [self.maker, "lookup", program.repository, program.password, program.cache, str(LOOKUPS)]
            return json.loads(output_of(command, self.timeout))

        program.forget_cache()
        first, again = opened(), opened()
        return {"open_first": first["open"], "open": again["open"], "lookup": again["lookup"] * 1e6}

    def first_ls(self, program):
        program.forget_cache()
        with Mounted(program, None, self.timeout, drop=False) as cold:
            pass
        with Mounted(program, None, self.timeout, drop=False) as warm:
            memory = own_memory(warm.process.pid)
        return {"first_ls_cold": cold.first_ls, "first_ls": warm.first_ls, "mount_memory": memory / MB}

    def command(self, program, key):
        command = [program.executable, *COMMANDS[key]]
        usage = observe(command, self.timeout, program.environment(), memory=own_memory)
        return {key: usage.seconds, f"{key}_cpu": usage.processor, f"{key}_memory": usage.memory / MB}

    def parts(self):
        return [self]

    def clear(self):
        """All goes with the scratch folder."""

    def as_text(self, results, _wanted):
        head = ["", "", *(size.name for size in self.sizes), "growth", "bar", "met"]
        rows = [self._row(phase, results) for phase in PHASES]
        return "\n".join(filter(None, [table.aligned([head, *rows]), table.failures_text(PHASES, results)]))

    def _row(self, phase, results):
        figures = [least(results, size, phase) for size in self.sizes]
        cells = ["failed" if f is None else table.number(f, phase.decimals) for f in figures]
        power = self.growth(phase, results)
        met = {True: "yes", False: "NO", None: ""}[self._met(phase, figures)]
        growth = "–" if power is None else f"{power:.2f}"
        return [phase.title, phase.unit, *cells, growth, table.bar_text(phase), met]

    @staticmethod
    def _met(phase, figures):
        if phase.limit is None:
            return None
        return all(figure is not None and figure <= phase.limit for figure in figures)

    def growth(self, phase, results):
        """None if it failed, or is too little to tell."""
        first, last = self.sizes[GROWING - 3], self.sizes[GROWING - 1]
        before, after = least(results, first, phase), least(results, last, phase)
        if not before or not after:
            return None
        return math.log(after / before) / math.log(last.blobs / first.blobs)

    def as_json(self, results, _wanted):
        return [
            {
                "phase": phase.key,
                "title": phase.title,
                "unit": phase.unit,
                "figures": {
                    size.name: {
                        "median": results.median(size.name, phase.key),
                        "least": least(results, size, phase),
                        "runs": results.runs(size.name, phase.key),
                        **({"failure": why} if (why := results.failure(size.name, phase.key)) else {}),
                    }
                    for size in self.sizes
                },
                "growth": self.growth(phase, results),
                "bar_limit": phase.limit,
                "met": self._met(phase, [least(results, size, phase) for size in self.sizes]),
            }
            for phase in PHASES
        ]


def least(results, size, phase):
    """The machine may have been busy otherwise; None if it failed."""
    runs = results.runs(size.name, phase.key)
    return min(runs) if runs and not results.failure(size.name, phase.key) else None
