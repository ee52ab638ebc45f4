"""The programs that are compared: how each of them is called.

All of them encrypt, with their default compression; borg has none of its own and gets
zstd,3. Caches and repositories lie in the scratch folder, and no configuration of the
user's is read.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from .commands import Failure, output_of

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Kind:
    """How a program is called: a table, so that a further one is a further entry.

    `calls` has the commands of what a program can do, each as a text of words with places
    such as {repository} in them; what it can't is not there. {paths} is as many words as
    there are paths. Several commands are run one after the other.
    """

    name: str
    calls: dict
    variables: dict = field(default_factory=dict)
    # Where on its drive the root of the newest snapshot is.
    root: str = "{mountpoint}"
    # Where a restore into {target} puts the folder {path} of the sources.
    restored: str = "{target}{path}"
    # Whether a restore goes into the folder that it is started in.
    restores_here: bool = False
    # Where in the folder of a venv, which can't be moved, its code is; else it is one file.
    modules: tuple = ()


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "tresor",
            {
                "init": ["init"],
                "backup": ["backup {paths}"],
                "mount": ["mount latest {mountpoint}"],
                "restore": ["restore latest --target {target}"],
                "check": ["check"],
                "forget": ["forget --keep-last {keep} --prune"],
                "version": ["--version"],
            },
            {
                "TRESOR_REPOSITORY": "{repository}",
                "TRESOR_PASSWORD_FILE": "{password}",
                "TRESOR_CACHE_DIR": "{room}/cache",
                "TRESOR_STATE_DIR": "{room}/state",
            },
        ),
        Kind(
            "restic",
            {
                "init": ["init"],
                "backup": ["backup {paths}"],
                "mount": ["mount {mountpoint}"],
                "restore": ["restore latest --target {target}"],
                "check": ["check"],
                "forget": ["forget --keep-last {keep} --prune"],
                "version": ["version"],
            },
            {
                "RESTIC_REPOSITORY": "{repository}",
                "RESTIC_PASSWORD_FILE": "{password}",
                "RESTIC_CACHE_DIR": "{room}/cache",
            },
            root="{mountpoint}/snapshots/latest",
        ),
        Kind(
            "rustic",
            {
                "init": ["init"],
                "backup": ["backup {paths}"],
                "mount": ["mount {mountpoint} latest"],
                "restore": ["restore latest {target}"],
                "check": ["check"],
                "forget": ["forget --keep-last {keep} --prune"],
                "version": ["--version"],
            },
            {
                "RUSTIC_REPOSITORY": "{repository}",
                "RUSTIC_PASSWORD_FILE": "{password}",
                "RUSTIC_CACHE_DIR": "{room}/cache",
                "RUSTIC_NO_PROGRESS": "true",
                "RUSTIC_LOG_LEVEL": "warn",
            },
        ),
        Kind(
            "borg",
            {
                "init": ["init --encryption repokey-blake2"],
                "backup": ["create --compression zstd,3 ::{generation} {paths}"],
                "mount": ["mount --foreground ::{generation} {mountpoint}"],
                "restore": ["extract ::{generation}"],
                "check": ["check"],
                "forget": ["prune --keep-last {keep}", "compact"],
                "version": ["--version"],
            },
            {
                "BORG_REPO": "{repository}",
                "BORG_PASSCOMMAND": "cat {password}",
                "BORG_BASE_DIR": "{room}/home",
                "BORG_FUSE_IMPL": "pyfuse3",
            },
            restores_here=True,
            modules=("borg", "fuse"),
        ),
        # It writes with a key that can't read, and compares with a log that lies beside it.
        Kind(
            "bupstash",
            {
                "init": ["init", "new-key -o {room}/key", "new-sub-key --put -k {room}/key -o {room}/put-key"],
                "backup": ["put --quiet -k {room}/put-key generation={generation} :: {paths}"],
                "restore": ["restore --quiet --ownership --xattrs --into {target} generation={generation}"],
                "forget": ["rm --allow-many {forgotten}", "gc"],
                "version": ["version"],
            },
            {
                "BUPSTASH_REPOSITORY": "{repository}",
                "BUPSTASH_KEY": "{room}/key",
                "BUPSTASH_SEND_LOG": "{room}/log",
                "BUPSTASH_QUERY_CACHE": "{room}/queries",
            },
            restored="{target}",
        ),
    )
}


class Program:
    """One program with a repository of its own inside the folder `room`."""

    def __init__(self, kind, executable, room):
        self.kind = kind
        self.name = kind.name
        self.executable = Path(executable)
        self.room = Path(room)
        self.repository = self.room / "repository"
        self.password = self.room / "password"
        self.mountpoint = self.room / "drive"
        # Number of the newest snapshot.
        self.generation = 0

    def lay_room(self):
        """Makes an empty room, in place of an earlier one if there is one."""
        shutil.rmtree(self.room, ignore_errors=True)
        self.generation = 0
        for folder in (self.room, self.mountpoint, self.room / "home"):
            folder.mkdir(parents=True)
        self.password.write_text(PASSWORD + "\n")
        self.password.chmod(0o600)

    def bring_code(self, folder):
        """Copies the program to the scratch folder, which lies in memory: otherwise parts of
        it would be read from the disk while it is measured, after the page cache was dropped."""
        if not self.kind.modules:
            folder.mkdir(exist_ok=True)
            self.executable = Path(shutil.copy2(self.executable.resolve(), folder / self.name))

    def places(self, **more):
        own = {
            name: str(getattr(self, name))
            for name in ("repository", "password", "room", "mountpoint", "generation")
        }
        return {**own, **{name: str(place) for name, place in more.items()}}

    def environment(self):
        keep = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL") if key in os.environ}
        own = {key: value.format(**self.places()) for key, value in self.kind.variables.items()}
        return {**keep, "HOME": str(self.room / "home"), **own}

    def can(self, what):
        return what in self.kind.calls

    def commands(self, what, paths=(), **places):
        """The commands that do it, one after the other."""
        places = self.places(**places)

        def word(text):
            return [str(path) for path in paths] if text == "{paths}" else [text.format(**places)]

        return [
            [str(self.executable), *(part for text in call.split() for part in word(text))]
            for call in self.kind.calls[what]
        ]

    def command(self, what, paths=(), **places):
        (command,) = self.commands(what, paths, **places)
        return command

    def mount_command(self, _data):
        """What serves the drive in the foreground."""
        return self.command("mount")

    def root(self, _data):
        """Where on the drive the root of the newest snapshot is."""
        return Path(self.kind.root.format(**self.places()))

    def inside(self, path, data):
        """Where on the drive an absolute path of the sources is."""
        return self.root(data) / Path(path).relative_to("/")

    def restored(self, path, target):
        """Where a restore puts a folder of the sources."""
        return Path(self.kind.restored.format(path=path, target=target))

    def code(self):
        """What the program is made of that still lies on a disk."""
        folder = self.executable.parent.parent
        return [found for part in self.kind.modules for found in folder.glob(f"lib/python*/site-packages/*{part}*")]

    def version(self):
        said = output_of(self.command("version"), 60, self.environment()).split("\n")[0].strip()
        said = said.split(" compiled")[0]
        return said if self.name in said else f"{self.name} {said}"


class Floor(Program):
    """The sources themselves, without a program: nothing can be faster."""

    def __init__(self, room):
        super().__init__(Kind("floor", {}), "/", room)

    def bring_code(self, folder):
        pass

    def mount_command(self, _data):
        return None

    def root(self, data):
        return data.source

    def inside(self, path, _data):
        return Path(path)


class PassThrough(Program):
    """A file system in user space that passes on the sources: what FUSE costs."""

    def __init__(self, executable, room):
        super().__init__(Kind("pass-through", {}), executable, room)

    def mount_command(self, data):
        keep = "ro,kernel_cache,entry_timeout=3600,attr_timeout=3600"
        options = ["-f", "--multithreaded", "--no-allow-other", "-o", keep]
        return [self.executable, *options, data.source, self.mountpoint]

    def inside(self, path, data):
        return self.mountpoint / Path(path).relative_to(data.source)


def program(name, room):
    return Program(KINDS[name], executable_of(name), room)


def executable_of(name):
    """The shell script says where a program is, by a variable such as BENCH_RESTIC. Whatever
    version of a peer the machine may have besides is not asked for."""
    variable = "TRESOR" if name == "tresor" else f"BENCH_{name.upper()}"
    found = os.environ.get(variable)
    if not found or not Path(found).is_file():
        raise Failure(f"{name} is not there ({variable} = {found or 'not set'})")
    return Path(found).absolute()
