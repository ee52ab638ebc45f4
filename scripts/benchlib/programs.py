"""The programs that are compared: how each of them is called.

All of them encrypt, with their default compression; borg has none of its own and gets
zstd,3. Caches and repositories lie in the scratch folder, and no configuration of the
user's is read.
"""

import os
import shutil
from pathlib import Path

from .commands import Failure, output_of

PASSWORD = "correct horse battery staple"


class Program:
    """One program with a repository of its own inside the folder `room`."""

    name = ""
    variables = {}

    def __init__(self, executable, room):
        self.executable = Path(executable)
        self.room = Path(room)
        self.repository = self.room / "repository"
        self.password = self.room / "password"
        self.mountpoint = self.room / "drive"

    def lay_room(self):
        for folder in (self.room, self.mountpoint, self.room / "home"):
            folder.mkdir()
        self.password.write_text(PASSWORD + "\n")
        self.password.chmod(0o600)
        self.bring_code()

    def bring_code(self):
        """Copies the program to the scratch folder, which lies in memory: otherwise parts of
        it would be read from the disk while it is measured, after the page cache was dropped."""
        self.executable = Path(shutil.copy2(self.executable.resolve(), self.room / self.name))

    def environment(self):
        keep = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL") if key in os.environ}
        own = {
            key: value.format(repository=self.repository, password=self.password, room=self.room)
            for key, value in self.variables.items()
        }
        return {**keep, "HOME": str(self.room / "home"), **own}

    def call(self, *arguments):
        return [self.executable, *arguments]

    def init_command(self):
        return self.call("init")

    def backup_command(self, *paths):
        return self.call("backup", *paths)

    def mount_command(self, _data):
        """What serves the drive in the foreground."""
        raise NotImplementedError

    def root(self, _data):
        """Where on the drive the root of the newest snapshot is."""
        return self.mountpoint

    def inside(self, path, data):
        """Where on the drive an absolute path of the sources is."""
        return self.root(data) / Path(path).relative_to("/")

    def code(self):
        """What the program is made of that still lies on a disk."""
        return []

    def version(self):
        return output_of(self.call("--version"), 60, self.environment()).split("\n")[0].strip()


class Tresor(Program):
    name = "tresor"
    variables = {
        "TRESOR_REPOSITORY": "{repository}",
        "TRESOR_PASSWORD_FILE": "{password}",
        "TRESOR_CACHE_DIR": "{room}/cache",
    }

    def mount_command(self, _data):
        return self.call("mount", "latest", self.mountpoint)


class Restic(Program):
    name = "restic"
    variables = {
        "RESTIC_REPOSITORY": "{repository}",
        "RESTIC_PASSWORD_FILE": "{password}",
        "RESTIC_CACHE_DIR": "{room}/cache",
    }

    def mount_command(self, _data):
        return self.call("mount", self.mountpoint)

    def root(self, _data):
        return self.mountpoint / "snapshots" / "latest"

    def version(self):
        return output_of(self.call("version"), 60, self.environment()).split(" compiled")[0]


class Rustic(Program):
    name = "rustic"
    variables = {
        "RUSTIC_REPOSITORY": "{repository}",
        "RUSTIC_PASSWORD_FILE": "{password}",
        "RUSTIC_CACHE_DIR": "{room}/cache",
        "RUSTIC_NO_PROGRESS": "true",
        "RUSTIC_LOG_LEVEL": "warn",
    }

    def mount_command(self, _data):
        return self.call("mount", self.mountpoint, "latest")


class Borg(Program):
    name = "borg"
    variables = {
        "BORG_REPO": "{repository}",
        "BORG_PASSCOMMAND": "cat {password}",
        "BORG_BASE_DIR": "{room}/home",
        "BORG_FUSE_IMPL": "pyfuse3",
    }

    def init_command(self):
        return self.call("init", "--encryption", "repokey-blake2")

    def backup_command(self, *paths):
        return self.call("create", "--compression", "zstd,3", "::{now:%Y-%m-%dT%H:%M:%S.%f}", *paths)

    def mount_command(self, _data):
        # The repository's only archive; --last 1 would put a folder around it.
        archive = output_of(self.call("list", "--short", "--last", "1"), 60, self.environment())
        return self.call("mount", "--foreground", f"::{archive.strip()}", self.mountpoint)

    def bring_code(self):
        pass  # A venv can't be moved.

    def code(self):
        return list(self.executable.parent.parent.glob("lib/python*/site-packages/*borg*")) + list(
            self.executable.parent.parent.glob("lib/python*/site-packages/*fuse*")
        )


class Floor(Program):
    """The sources themselves, without a program: nothing can be faster."""

    name = "floor"

    def bring_code(self):
        pass

    def mount_command(self, _data):
        return None

    def root(self, data):
        return data.source

    def inside(self, path, _data):
        return Path(path)


class PassThrough(Program):
    """A file system in user space that passes on the sources: what FUSE costs."""

    name = "pass-through"

    def mount_command(self, data):
        keep = "ro,kernel_cache,entry_timeout=3600,attr_timeout=3600"
        return self.call("-f", "--multithreaded", "--no-allow-other", "-o", keep, data.source, self.mountpoint)

    def inside(self, path, data):
        return self.mountpoint / Path(path).relative_to(data.source)


BACKUP_PROGRAMS = {kind.name: kind for kind in (Tresor, Restic, Rustic, Borg)}


def executable_of(name):
    """The shell script says where a program is, by a variable such as BENCH_RESTIC. Whatever
    version of a peer the machine may have besides is not asked for."""
    variable = "TRESOR" if name == "tresor" else f"BENCH_{name.upper()}"
    found = os.environ.get(variable)
    if not found or not Path(found).is_file():
        raise Failure(f"{name} is not there ({variable} = {found or 'not set'})")
    return Path(found).absolute()
