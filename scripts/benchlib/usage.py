"""What a command uses: time, processors, memory."""

import os
import select
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .commands import Failure, end, last_lines, start


@dataclass
class Usage:
    """Of one command or several one after the other."""

    seconds: float = 0.0
    # Seconds of processor time, with those of all processes that it started.
    processor: float = 0.0
    # The most bytes of memory at any time.
    memory: int = 0

    def __add__(self, other):
        memory = max(self.memory, other.memory)
        return Usage(self.seconds + other.seconds, self.processor + other.processor, memory)


def status_of(pid, field):
    """A figure of /proc/PID/status in bytes; 0 if the process has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def own_memory(pid):
    """Bytes of a process that the kernel can't drop and read again from a file."""
    return status_of(pid, "RssAnon")


def tree_memory(pid):
    """The most that a process and those it has started have each held, added up."""
    return status_of(pid, "VmHWM") + sum(tree_memory(child) for child in children(pid))


def children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    except OSError:
        pass
    return found


# How often memory is looked at, in milliseconds.
EVERY = 5


def observe(command, timeout, environment, memory=tree_memory, folder=None):
    """Runs a command to its end."""
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = start(command, environment, errors=errors, folder=folder)
        fd = os.pidfd_open(process.pid)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        most = 0
        try:
            while not poller.poll(EVERY):
                most = max(most, memory(process.pid))
                if time.perf_counter() > began + timeout:
                    raise Failure(f"{' '.join(map(str, command))}: no end after {timeout} s")
            seconds = time.perf_counter() - began
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            os.close(fd)
            end(process)
        if process.returncode:
            errors.seek(0)
            said = last_lines(errors.read().decode(errors="replace"))
            raise Failure(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{said}")
    return Usage(seconds, used.ru_utime + used.ru_stime, most)
