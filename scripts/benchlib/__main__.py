"""What scripts/bench runs: the options, one group of phases, and the answer."""

import argparse
import datetime
import json
import signal
import sys
from pathlib import Path

from . import chart, machine
from .backup import SETS, Backup
from .commands import Failure
from .drive import Drive
from .growth import Growth
from .phases import Results, run_rounds, say
from .scale import Scale

# A further group is a module with a class that has what Drive has: `notes`, `programs`,
# bytes_needed(), parts(), about(), headline(), named(), as_text() and as_json(). A part has
# prepare(), steps() and clear(); most groups are their own only part.
GROUPS = {"backup": Backup, "drive": Drive, "growth": Growth, "scale": Scale}

DESCRIPTION = """\
Measures tresor beside other backup programs: restic 0.19.1, rustic 0.11.4, borg 1.4.5,
bupstash 0.12.0.

Groups of phases:
  backup    first, unchanged and incremental backups, restores, check and prune: time,
            processors, memory and size with the Linux kernel's sources and the next point
            release (kernel), a file of 2 GB (big), a sparse disk image (image) and 300,000
            tiny files (tiny); beside it tar | zstd, find and cp -a (floor)
  drive     a snapshot as a drive: the Linux kernel's sources and a big file, listed,
            searched, read and copied; beside it the plain files (floor) and a FUSE file
            system that only passes them on (pass-through)
  growth    tresor alone: backups of five numbers of files up to ten million, and of a million
            in one directory; repositories with indexes of five sizes up to 100 million chunks;
            a sparse file of 1 TiB with 200 MB of data
  scale     tresor alone, with repositories of five sizes up to 10 million blobs and 1,000
            snapshots, one of a million files in 100 snapshots and one of 10,000 snapshots,
            which hold no payload
"""

EPILOG = """\
The script installs what is missing: Debian packages into the system, the other programs
into ${TRESOR_BENCH_CACHE:-~/.cache/tresor-bench}. rustic is compiled, which takes about
20 minutes, once. These variables name programs that are there already:
  TRESOR, BENCH_RESTIC, BENCH_RUSTIC, BENCH_BORG, BENCH_BUPSTASH; BENCH_KERNEL and
  BENCH_KERNEL_NEXT: archives of two versions of the kernel's sources

Everything that is measured lies in memory: 10 GB with the default sizes, and 3 GB must be
free beside it. It takes root, or sudo without a password, to drop the page cache. A round
of `drive` or `backup` with all programs takes about 10 minutes on two cores, one of `scale`
about 5; with --quick one of `backup` takes two and one of `scale` less than one. Whatever
fails is shown as failed, and the rest goes on.

`growth` takes an hour a round, 7 GB of memory, and 5 GB of a real disk, where $BENCH_DISK is (/var/tmp).

Examples:
  scripts/bench backup --runs 3 --json backup.json --svg backup.svg
  scripts/bench backup --quick
  scripts/bench backup --data kernel,tiny --only tresor,bupstash
  scripts/bench drive --runs 3 --json drive.json
  scripts/bench drive --only tresor,borg
  scripts/bench drive --tree /usr/share/doc --copy gcc-12-base --big-size 200M
  scripts/bench scale --quick

Exit codes: 0 measured, 1 failed, 130 interrupted. Bars that are missed don't count.
"""


def size(text):
    """200M and the like; units of 1,000, as disks have them."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    factor = units.get(text[-1:].upper(), 1)
    bytes_ = round(float(text[:-1] if factor > 1 else text) * factor)
    if bytes_ < 1 << 20:
        raise argparse.ArgumentTypeError("at least 1M")
    return bytes_


def names(text):
    return [name for name in text.split(",") if name]


def at_least_one(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def parser():
    made = argparse.ArgumentParser(
        "scripts/bench", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("group", choices=sorted(GROUPS))
    made.add_argument("--runs", type=at_least_one, default=None, metavar="N", help="rounds; figures are medians, of scale the least (3; with --quick 1)")
    made.add_argument("--only", type=names, metavar="NAMES", help="only these programs: tresor,restic,rustic,borg,bupstash")
    made.add_argument("--scratch", metavar="DIR", help="where to make the scratch folder (/dev/shm); "
                      "a tmpfs is mounted there if it isn't one")
    made.add_argument("--json", metavar="FILE", help="write the figures of all rounds there")
    made.add_argument("--svg", metavar="FILE", help="draw the medians there")
    made.add_argument("--data", type=names, metavar="SETS", help=f"backup: only these sets of files: {','.join(SETS)}")
    made.add_argument("--tree", metavar="DIR", help="drive: a tree instead of the kernel's sources")
    made.add_argument("--copy", metavar="FOLDER", default="drivers/net", help="drive: what of it is copied (drivers/net)")
    made.add_argument("--big-size", type=size, default=2_147_000_000, metavar="SIZE", help="drive: of the big file (2147M)")
    made.add_argument("--quick", action="store_true", help="backup, growth and scale: little data, one round")
    made.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for each command (900)")
    # For the shell script, which installs them.
    made.add_argument("--list-programs", action="store_true", help=argparse.SUPPRESS)
    return made


def chosen(options):
    known = GROUPS[options.group].programs
    wanted = options.only or known
    for name in wanted:
        if name not in known:
            raise Failure(f"--only: there is no {name} in {options.group}; choose of {', '.join(known)}")
    return [name for name in known if name in wanted]


def report(options, group, results, wanted, versions):
    """Prints the table, and writes the JSON if that was asked for."""
    about = machine.description()
    rounds = f"{options.runs} round{'s' * (options.runs > 1)}{', interrupted' * results.interrupted}"
    print(f"{options.group}: {group.headline()}; {rounds}")
    print(f"{about['cpu']}, {about['cores']} cores, {about['memory'] / 2**30:.0f} GiB, kernel {about['kernel']}")
    print("; ".join(dict.fromkeys(versions.values())))
    print(f"\n{group.as_text(results, wanted)}\n")
    print("\n".join(group.notes))
    phases = group.as_json(results, wanted)
    if options.svg:
        Path(options.svg).write_text(chart.svg(f"{options.group}: {group.headline()}", phases))
    if options.json:
        answer = {
            "group": options.group,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "interrupted": results.interrupted,
            "machine": about,
            "data": group.about(),
            "versions": versions,
            "phases": phases,
        }
        Path(options.json).write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")


def measure(options, wanted):
    results = Results()
    kind = GROUPS[options.group]
    with machine.Scratch(options.scratch, kind.bytes_needed(options, len(wanted))) as scratch:
        group = kind(options, scratch)
        versions = {}
        try:
            for part in group.parts():
                programs = part.prepare(wanted, results)
                named = [program for program in programs if program.name in group.named(wanted)]
                versions |= {program.name: program.version() for program in named}
                run_rounds(part.steps(), programs, options.runs, results)
                part.clear()
        except KeyboardInterrupt:
            results.interrupted = True
            say("Interrupted; this is what there was until then")
        report(options, group, results, wanted, versions)
    return 130 if results.interrupted else 0


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt(*_):
    """The first one ends the measuring; the cleaning up after it is not to be interrupted."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main():
    options = parser().parse_args()
    options.runs = options.runs or (1 if options.quick else 3)
    for number in ENDINGS:
        signal.signal(number, interrupt)
    try:
        wanted = chosen(options)
        if options.list_programs:
            print("\n".join(wanted))
            return 0
        return measure(options, wanted)
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
