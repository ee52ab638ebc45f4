"""The group `backup`: what a backup program does all day, with several sets of files."""

import shutil
from pathlib import Path

from . import data, sets, table
from .commands import Failure, output_of, run
from .phases import Phase, Step, say
from .programs import KINDS, Floor, program as program_of
from .usage import Usage, observe

OWN = "tresor"
MB = 1e6
MEMORY = 120
# Of the kernel's five snapshots, the newer half stays.
KEEP = 2
GENERATIONS = 5

# What the sets consist of: how they are made, bytes they take with their changes, bytes of a
# repository, and what is measured with its bars: times the best peer, times the floor.
SETS = {
    "kernel": {
        "lay": sets.kernel, "bytes": 1_900 * MB, "repository": 400 * MB,
        "bars": {"first": (2, 1), "unchanged": (2, None), "incremental": (4, None), "restore": (None, 1),
                 "check": (2, None), "forget": (2, None)},
        "sizes": {"size": 240, "growth": 35},
    },
    "big": {
        "lay": sets.big, "bytes": 2_150 * MB, "repository": 1_200 * MB,
        "bars": {"first": (3, None), "unchanged": (None, None), "restore": (3, None)}, "sizes": {"size": None},
    },
    "image": {
        "lay": sets.image, "bytes": 2_900 * MB, "repository": 850 * MB,
        "bars": {"first": (3, None), "incremental": (3, None), "restore": (3, None)},
        "sizes": {"size": None, "growth": None},
    },
    "tiny": {
        "lay": sets.tiny, "bytes": 1_500 * MB, "repository": 500 * MB,
        "bars": {"first": (2, None), "unchanged": (3, None), "restore": (None, 1)}, "sizes": {"size": None},
    },
}
TITLES = {
    "first": "first backup", "unchanged": "unchanged", "incremental": "after a change", "restore": "restore",
    "check": "check", "forget": "forget half and prune", "size": "repository", "growth": "growth by the change",
}
FLOORS = {
    "first": "cd {folder} && tar -cf - . | zstd -q -3 -T2 -o {repository}",
    "unchanged": "find {path} -printf '%s %T@ %C@ %i\\n' >/dev/null",
    "restore": "cp -a {path} {target}",
}

NOTES = (
    "floor: first backup, tar | zstd -3 -T2; unchanged, find -printf '%s %T@ %C@ %i'; restore, cp -a.",
    "CPU: seconds of all processors; memory: of all of a program's processes together, at most. Nothing is",
    "dropped from the page cache. Each restore is compared with the sources: contents, modes, times, links.",
    "bupstash hashes no password and has no check. ±: half of what lies between the extreme rounds.",
)


def phases_of(name):
    """For each thing that is measured: seconds, those of processors, memory."""
    made = []
    for key, (ratio, floor) in SETS[name]["bars"].items():
        title = f"{name}: {TITLES[key]}"
        made += [
            Phase(f"{name}_{key}", title, "s", ratio=ratio, floor=floor),
            Phase(f"{name}_{key}_cpu", f"{title}, CPU", "s", ratio=1),
            Phase(f"{name}_{key}_memory", f"{title}, memory", "MB", 0, limit=MEMORY),
        ]
    for key, limit in SETS[name]["sizes"].items():
        made.append(Phase(f"{name}_{key}", f"{name}: {TITLES[key]}", "MB", 1, limit=limit))
    return made


class Backup:
    """The sets that were chosen, one after the other, so that they need not lie side by side."""

    notes = NOTES
    programs = tuple(KINDS)

    def __init__(self, options, scratch):
        names = options.data or list(SETS)
        if unknown := [name for name in names if name not in SETS]:
            raise Failure(f"--data: there is no {', '.join(unknown)}; choose of {', '.join(SETS)}")
        self.sets = [Set(name, options, Path(scratch)) for name in SETS if name in names]
        self.phases = [phase for part in self.sets for phase in part.phases]

    @staticmethod
    def bytes_needed(options, programs):
        chosen = [SETS[name] for name in SETS if name in (options.data or SETS)]
        most = max((2 * s["bytes"] + (programs + 1) * s["repository"] for s in chosen), default=0)
        return round(most / (8 if options.quick else 1))

    def parts(self):
        return self.sets

    def about(self):
        return {part.name: part.what for part in self.sets}

    def headline(self):
        return "; ".join(part.what for part in self.sets)

    @staticmethod
    def named(wanted):
        return wanted

    def _compared(self, results, wanted):
        return self.phases, results, [*wanted, "floor"], OWN, [n for n in wanted if n != OWN]

    def as_text(self, results, wanted):
        return table.as_text(*self._compared(results, wanted))

    def as_json(self, results, wanted):
        return table.as_json(*self._compared(results, wanted))


class Set:
    """One set of files: laid, backed up by all, removed again."""

    def __init__(self, name, options, scratch):
        self.name = name
        self.quick = options.quick
        self.timeout = options.timeout
        self.folder = scratch / name
        self.scratch = scratch
        self.target = self.folder / "restored"
        self.phases = phases_of(name)
        self.laid = None
        self.what = name

    def prepare(self, names, results):
        say(f"Making {self.name}")
        self.folder.mkdir()
        self.laid = SETS[self.name]["lay"](self.folder, self.quick, self.timeout)
        self.what = self.laid.what
        say(self.what)
        ready = [Floor(self.folder / "floor")]
        for name in names:
            try:
                program = program_of(name, self.folder / name)
                program.bring_code(self.scratch / "code")
                ready.append(program)
            except (Failure, OSError) as failure:
                say(f"{name} FAILED: {failure}")
                results.fail(name, [phase.key for phase in self.phases], str(failure))
        return ready

    def clear(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def steps(self):
        bars = SETS[self.name]["bars"]
        steps = [self._step("first", self.first, self._back, ("size",))]
        if "unchanged" in bars:
            steps.append(self._step("unchanged", self.again))
        if "incremental" in bars:
            steps.append(self._step("incremental", self.again, self.laid.changes[0].apply, ("growth",)))
        steps.append(self._step("restore", self.restore))
        if "forget" in bars:
            # A little history, to forget half of it.
            for change in self.laid.changes[1:]:
                steps.append(Step("history", (), self.history, change.apply))
            steps += [self._step("check", self.plain), self._step("forget", self.plain)]
        return steps

    def _step(self, key, measure, before=None, sizes=()):
        keys = [f"{self.name}_{key}{part}" for part in ("", "_cpu", "_memory")]
        keys += [f"{self.name}_{size}" for size in sizes if size in SETS[self.name]["sizes"]]
        return Step(f"{self.name} {key}", tuple(keys), lambda program: measure(program, key), before)

    def _back(self):
        """The files as they were at first."""
        for change in reversed(self.laid.changes):
            change.undo()

    def _figures(self, key, usage):
        base = f"{self.name}_{key}"
        return {base: usage.seconds, f"{base}_cpu": usage.processor, f"{base}_memory": usage.memory / MB}

    def _run(self, program, what, folder=None, **places):
        usage = Usage()
        for command in program.commands(what, (self.laid.path,), **places):
            usage += observe(command, self.timeout, program.environment(), folder=folder)
        return usage

    def _backup(self, program):
        program.generation += 1
        return self._run(program, "backup")

    def _floor(self, program, key):
        """As nobody makes a backup, but nearly as fast as one can be."""
        if key not in FLOORS:
            return {}
        places = {"folder": self.laid.path, "path": self.laid.path, "target": self.target}
        command = FLOORS[key].format(**places, repository=program.room / "archive")
        return self._figures(key, observe(["sh", "-c", command], self.timeout, program.environment()))

    def first(self, program, key):
        program.lay_room()
        if program.name == "floor":
            figures = self._floor(program, key)
            size = (program.room / "archive").stat().st_size
            (program.room / "archive").unlink()
            return {**figures, f"{self.name}_size": size / MB}
        for command in program.commands("init"):
            run(command, self.timeout, program.environment())
        figures = self._figures(key, self._backup(program))
        return {**figures, f"{self.name}_size": self._size(program)}

    def again(self, program, key):
        if program.name == "floor":
            return self._floor(program, key)
        before = self._size(program)
        figures = self._figures(key, self._backup(program))
        if key == "incremental":
            figures[f"{self.name}_growth"] = self._size(program) - before
        return figures

    def history(self, program, _key=None):
        if program.name != "floor":
            self._backup(program)
        return {}

    def restore(self, program, key):
        self.target.mkdir()
        try:
            if program.name == "floor":
                return self._floor(program, key)
            folder = self.target if program.kind.restores_here else None
            usage = self._run(program, "restore", folder, target=self.target)
            self._verify(program.restored(self.laid.path, self.target))
            return self._figures(key, usage)
        finally:
            shutil.rmtree(self.target, ignore_errors=True)

    def _verify(self, restored):
        """Figures of a restore that gives something else are worthless."""
        what = r"%P %y %m %l"
        if data.listing(restored, self.timeout, what) != data.listing(self.laid.path, self.timeout, what):
            raise Failure("names, modes or links differ in what was restored")
        times = ["-type", "f", "-printf", r"%P %Ts\0"]
        found = [sorted(output_of(["find", tree, *times], self.timeout).split("\0")) for tree in (restored, self.laid.path)]
        if found[0] != found[1]:
            raise Failure("times differ in what was restored")
        data.same_tree(self.laid.path, restored, self.timeout)

    def plain(self, program, key):
        if not program.can(key):
            return {}
        gone = " or ".join(f"generation={number}" for number in range(1, GENERATIONS - KEEP + 1))
        return self._figures(key, self._run(program, key, keep=KEEP, forgotten=gone))

    @staticmethod
    def _size(program):
        """Megabytes of the repository."""
        return sum(path.lstat().st_size for path in program.repository.rglob("*") if path.is_file()) / MB
