"""A drive for as long as a phase needs it."""

import time
from pathlib import Path

from .commands import Failure, end, last_lines, run, start, wait
from .machine import drop_caches, is_mounted, read_through


class Mounted:
    """A program's drive, freshly mounted: nothing of it is in any cache.

    With `drop`, the page cache is dropped before that. What the program is made of is
    then read again, since the speed of the disk that it lies on is not its own.
    """

    def __init__(self, program, data, timeout, drop=True):
        self.program = program
        self.data = data
        self.timeout = timeout
        self.drop = drop
        self.first_ls = None
        self.peak = None
        self.process = None
        self.errors = None

    def inside(self, path):
        return self.program.inside(path, self.data)

    def __enter__(self):
        command = self.program.mount_command(self.data)
        if self.drop:
            drop_caches()
            read_through(self.program.code() + self.tools())
        began = time.perf_counter()
        try:
            if command:
                self._serve(command, began + self.timeout)
            run(["ls", self.program.root(self.data)], self.timeout)
            self.first_ls = time.perf_counter() - began
        except BaseException as failure:
            self.stop()
            if isinstance(failure, Failure) and self.said():
                raise Failure(f"{failure}\n{self.said()}") from failure
            raise
        return self

    def __exit__(self, kind, failure, _):
        try:
            if failure is None:
                self.peak = self._peak()
        finally:
            self.stop()
        if isinstance(failure, Failure) and self.said():
            raise Failure(f"{failure}\nThe drive said: {self.said()}") from failure

    @staticmethod
    def tools():
        return [Path("/usr/bin") / tool for tool in ("find", "ls", "cp")]

    def _serve(self, command, latest):
        # Not a pipe: nobody would read it while the drive is in use.
        self.errors = open(self.program.room / "drive.log", "w+b")
        self.process = start(command, self.program.environment(), self.errors, self.errors)
        while not is_mounted(self.program.mountpoint):
            if self.process.poll() is not None:
                raise Failure(f"{self.program.name}: no drive, exit code {self.process.returncode}")
            if time.perf_counter() > latest:
                raise Failure(f"{self.program.name}: no drive after {self.timeout} s")
            time.sleep(0.0005)

    def _peak(self):
        """The most memory that the process has ever held, in bytes; None for the floor."""
        if self.process is None:
            return None
        try:
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        raise Failure(f"{self.program.name}: the program that serves the drive has ended")

    def said(self):
        """The last lines of what the program has printed."""
        try:
            text = (self.program.room / "drive.log").read_text(errors="replace")
        except OSError:
            return ""
        return last_lines(text)

    def stop(self):
        """Unmounts and ends the program, whatever state they are in."""
        point = self.program.mountpoint
        for how in ("-u", "-uz"):
            if self.process is None or not is_mounted(point):
                break
            try:
                run(["fusermount3", how, point], 60)
            except Failure:
                pass  # The next way, and then the end of the process, do it.
        if self.process is not None:
            if not wait(self.process, 20):
                end(self.process)
            self.process = None
        if self.errors is not None:
            self.errors.close()
            self.errors = None
