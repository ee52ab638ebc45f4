"""tresor for Windows under Wine, and tresor for this system, on the same folders."""

import json
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

PASSWORD = "a password for tests"


class Programs(unittest.TestCase):
    """Each test has an own folder; Wine's drive C: is the same for all of a class."""

    @classmethod
    def setUpClass(cls):
        cls.top = Path(tempfile.mkdtemp(prefix="tresor-wine-"))
        cls.prefix = cls.top / "prefix"
        cls.prefix.mkdir()
        cls.env = {
            **os.environ,
            "WINEPREFIX": str(cls.prefix),
            "WINEDEBUG": "-all",
            # No questions about what Wine could install.
            "WINEDLLOVERRIDES": "mscoree,mshtml=",
            "TRESOR_PASSWORD": PASSWORD,
            "LC_ALL": "C.UTF-8",
        }
        cls.env.pop("TRESOR_REPOSITORY", None)
        # The server stays until the end, and with it what Wine starts first: that takes
        # seconds each time. What stays must not hold a pipe that somebody reads to its end.
        for line in (["wineserver", "-p"], ["wine", "wineboot", "-i"]):
            subprocess.run(line, env=cls.env, check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)

    @classmethod
    def tearDownClass(cls):
        subprocess.run(["wineserver", "-k"], env=cls.env, check=False, capture_output=True)
        shutil.rmtree(cls.top)

    def setUp(self):
        self.here = self.prefix / "drive_c" / self.id().rsplit(".", 1)[-1]
        self.here.mkdir()
        self.repo = self.here / "repo"

    def tearDown(self):
        shutil.rmtree(self.here)

    def windows_path(self, path):
        inside = Path(path).relative_to(self.prefix / "drive_c")
        return "C:\\" + str(inside).replace("/", "\\")

    def recorded(self, path):
        """The path in a snapshot that Windows has made."""
        return "/C/" + str(Path(path).relative_to(self.prefix / "drive_c"))

    def windows(self, *words, codes=(0,), start=False):
        """Runs tresor.exe; paths of this system become those of Windows."""
        words = [self.windows_path(w) if isinstance(w, Path) else w for w in words]
        line = ["wine", os.environ["TRESOR_EXE"], "-r", self.windows_path(self.repo),
                "--cache-dir", self.windows_path(self.here / "cache-w"),
                "--state-dir", self.windows_path(self.here / "state-w"), *words]
        if start:
            return subprocess.Popen(line, env=self.env, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        return self.run_line(line, codes)

    def linux(self, *words, codes=(0,)):
        line = [os.environ["TRESOR"], "-r", self.repo, "--cache-dir", self.here / "cache-l",
                "--state-dir", self.here / "state-l", *words]
        return self.run_line(line, codes)

    def run_line(self, line, codes):
        done = subprocess.run(line, env=self.env, capture_output=True, stdin=subprocess.DEVNULL,
                              timeout=300)
        self.assertIn(done.returncode, codes, f"{line}\n{done.stdout}\n{done.stderr}")
        return done

    def json_lines(self, done):
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def contents(folder):
    """Every file and folder below one, by its path in bytes; files with their bytes."""
    top = os.fsencode(folder)
    found = {}
    for place, dirs, files in os.walk(top):
        for name in dirs:
            found[os.path.relpath(os.path.join(place, name), top)] = None
        for name in files:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, top)] = file.read()
    return found


def times(folder):
    """Times of change in ticks of 100 ns, all that Windows keeps."""
    top = os.fsencode(folder)
    return {path: os.stat(os.path.join(top, path)).st_mtime_ns // 100 for path in contents(folder)}
