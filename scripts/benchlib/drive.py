"""The group `drive`: a snapshot opened as a drive, and read as people read it."""

import json
import shutil
import statistics
import sys
from contextlib import contextmanager
from pathlib import Path

from . import data as sources
from . import table
from .commands import Failure, output_of, run
from .mounted import Mounted
from .phases import Phase, Step, say
from .programs import KINDS, Floor, PassThrough, program as program_of

OWN = "tresor"
READS = 2000
MB = 1e6
CACHE = 128 << 20

PHASES = (
    Phase("first_ls", "mount to first ls", "s", ratio=2),
    Phase("find_cold", "find, cold", "s", ratio=10),
    Phase("find_warm", "find, warm", "s"),
    Phase("ls_cold", "ls -lR, cold", "s", ratio=10),
    Phase("sequential_cold", "sequential, cold", "MB/s", 0, ratio=4, more_is_better=True),
    Phase("sequential_warm", "sequential, warm", "MB/s", 0, ratio=1, more_is_better=True),
    Phase("random_median", "random 4 KiB, median", "ms", 3, ratio=10),
    Phase("random_p99", "random 4 KiB, p99", "ms", 3, ratio=5),
    Phase("copy_cold", "cp -r, cold", "s", ratio=4),
    Phase("memory", "peak memory", "MB", 0, limit=(CACHE + 60 * MB) / MB),
)

NOTES = (
    "cold: a fresh mount after dropping the page cache; warm: the same command again on that mount.",
    "mount to first ls: from the start of the process, with hashing the password, until ls of the",
    "snapshot's root returns. random: single reads at seeded places, each about 1 µs of Python.",
    "peak memory: VmHWM of the process that serves the drive, the most of all phases; the bar is the",
    "default cache of 128 MiB and 60 MB.",
)


class Drive:
    """The group's programs, their data, and how each step is measured."""

    phases = PHASES
    notes = NOTES
    programs = tuple(name for name, kind in KINDS.items() if "mount" in kind.calls)
    references = ("floor", "pass-through")

    def __init__(self, options, scratch):
        self.options = options
        self.timeout = options.timeout
        self.scratch = Path(scratch)
        self.data = None

    @staticmethod
    def bytes_needed(options, programs):
        return sources.bytes_needed(sources.tree_bytes(options.tree), options.big_size, programs)

    def about(self):
        """What was backed up, for JSON."""
        return {
            "tree": self.data.what,
            "entries": self.data.files,
            "big_bytes": self.options.big_size,
            "big_sha256": self.data.sha256,
        }

    def headline(self):
        return f"{self.data.what}, {self.data.files:,} entries; a file of {self.options.big_size / MB:,.0f} MB"

    def steps(self):
        return (
            Step("first ls", ("first_ls",), self.first_ls),
            Step("find", ("find_cold", "find_warm"), self.find),
            Step("ls -lR", ("ls_cold",), self.ls),
            Step("sequential", ("sequential_cold", "sequential_warm"), self.sequential),
            Step("random", ("random_median", "random_p99"), self.random),
            Step("cp -r", ("copy_cold",), self.copy),
        )

    def prepare(self, names, results):
        """Makes the sources and the repositories; returns the programs that can go on."""
        say("Making the tree and the big file")
        self.data = sources.lay(
            self.scratch / "source", self.options.tree, self.options.big_size, self.options.copy, self.timeout
        )
        self.data.sha256 = self._sha256(self.data.big)
        say(f"{self.data.what}: {self.data.files} entries")
        ready = []
        for name in names:
            try:
                ready.append(self._ready(name))
            except (Failure, OSError) as failure:
                say(f"{name} FAILED: {failure}")
                results.fail(name, [phase.key for phase in PHASES], str(failure))
        return ready + self._references(results)

    def _ready(self, name):
        program = program_of(name, self.scratch / name)
        program.lay_room()
        program.bring_code(self.scratch / "code")
        environment = program.environment()
        run(program.command("init"), self.timeout, environment)
        program.generation = 1
        seconds = run(program.command("backup", (self.data.tree, self.data.big)), self.timeout, environment)
        say(f"{program.version()}: backed up in {seconds:.1f} s; now comparing what its drive gives")
        self.verify(program)
        return program

    def _references(self, results):
        """What the figures are compared with beside the peers."""
        floor = Floor(self.scratch / "floor")
        floor.lay_room()
        bindfs = shutil.which("bindfs")
        if bindfs is None:
            results.fail("pass-through", [phase.key for phase in PHASES], "bindfs is not there")
            return [floor]
        through = PassThrough(bindfs, self.scratch / "pass-through")
        through.lay_room()
        through.bring_code(self.scratch / "code")
        return [floor, through]

    def _mounted(self, program, drop=True):
        return Mounted(program, self.data, self.timeout, drop)

    def _read(self, *arguments):
        reader = Path(__file__).with_name("reader.py")
        return json.loads(output_of([sys.executable, reader, *arguments], self.timeout))

    def _sha256(self, path):
        return self._read("sha256", path)["sha256"]

    def verify(self, program):
        """Figures of a drive that gives something else than what was saved are worthless."""
        with self._mounted(program, drop=False) as mounted:
            if self._sha256(mounted.inside(self.data.big)) != self.data.sha256:
                raise Failure("the big file reads differently from the drive")
            wanted = sources.listing(self.data.tree, self.timeout)
            if sources.listing(mounted.inside(self.data.tree), self.timeout) != wanted:
                raise Failure("find gives other names on the drive")
            with self._copied(mounted) as (target, _):
                sources.same_tree(self.data.folder, target, self.timeout)

    def first_ls(self, program):
        # Every mount is a cold one. To drop the page cache would add the reading of the
        # program from the disk, which is not what differs between them.
        with self._mounted(program, drop=False) as mounted:
            pass
        return self._with_memory(mounted, {"first_ls": mounted.first_ls})

    def find(self, program):
        with self._mounted(program) as mounted:
            command = ["find", mounted.inside(self.data.tree)]
            figures = {"find_cold": run(command, self.timeout), "find_warm": run(command, self.timeout)}
        return self._with_memory(mounted, figures)

    def ls(self, program):
        with self._mounted(program) as mounted:
            figures = {"ls_cold": run(["ls", "-lR", mounted.inside(self.data.tree)], self.timeout)}
        return self._with_memory(mounted, figures)

    def sequential(self, program):
        figures = {}
        with self._mounted(program) as mounted:
            for key in ("sequential_cold", "sequential_warm"):
                answer = self._read("sequential", mounted.inside(self.data.big))
                figures[key] = answer["bytes"] / answer["seconds"] / MB
        return self._with_memory(mounted, figures)

    def random(self, program):
        with self._mounted(program) as mounted:
            answer = self._read("random", mounted.inside(self.data.big), READS, sources.SEED)
        seconds = sorted(answer["seconds"])
        p99 = seconds[max(0, -(-len(seconds) * 99 // 100) - 1)]
        figures = {"random_median": statistics.median(seconds) * 1e3, "random_p99": p99 * 1e3}
        return self._with_memory(mounted, figures)

    def copy(self, program):
        with self._mounted(program) as mounted, self._copied(mounted) as (_, seconds):
            pass
        return self._with_memory(mounted, {"copy_cold": seconds})

    @contextmanager
    def _copied(self, mounted):
        """A copy of the folder, for as long as it is needed, and the seconds it took."""
        target = self.scratch / "copy"
        try:
            yield target, run(["cp", "-r", mounted.inside(self.data.folder), target], self.timeout)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def parts(self):
        return [self]

    def clear(self):
        """All goes with the scratch folder."""

    @staticmethod
    def named(wanted):
        """Programs whose versions are told."""
        return wanted

    def _compared(self, results, wanted):
        return PHASES, results, [*wanted, *self.references], OWN, [n for n in wanted if n != OWN]

    def as_text(self, results, wanted):
        return table.as_text(*self._compared(results, wanted))

    def as_json(self, results, wanted):
        return table.as_json(*self._compared(results, wanted))

    @staticmethod
    def _with_memory(mounted, figures):
        return figures if mounted.peak is None else {**figures, "memory": mounted.peak / MB}
