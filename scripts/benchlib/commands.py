"""Running commands: with a limit of time, and timed to the microsecond."""

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time


class Failure(Exception):
    """A program did not do what was asked. The text says why, in its own words."""


def last_lines(text, count=6):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def wait(process, timeout):
    """Waits for the end of a process; False if it is still running by then.

    Popen.wait(timeout) sleeps up to 50 ms at a time, which would be part of every
    figure; a pidfd wakes us at once.
    """
    fd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        ended = bool(poller.poll(timeout * 1000))
    finally:
        os.close(fd)
    if ended:
        process.wait()
    return ended


def end(process, patience=5):
    """Ends a process that we started, and what it has started, however long that takes it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        wait(process, patience)


def start(arguments, environment=None, output=subprocess.DEVNULL, errors=subprocess.DEVNULL, folder=None):
    """Starts a process in a group of its own, so that Ctrl-C reaches only us, who clean up."""
    try:
        return subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        raise Failure(f"{arguments[0]}: {error.strerror}") from error


def run(arguments, timeout, environment=None, output=subprocess.DEVNULL, accept=(0,)):
    """Runs a command to its end and returns the seconds it took, from start to end."""
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = start(arguments, environment, output, errors)
        try:
            ended = wait(process, timeout)
            seconds = time.perf_counter() - began
        finally:
            end(process)
        if ended and process.returncode in accept:
            return seconds
        errors.seek(0)
        said = last_lines(errors.read().decode(errors="replace"))
    what = f"exit code {process.returncode}" if ended else f"no end after {timeout} s"
    raise Failure("\n".join(filter(None, [f"{' '.join(map(str, arguments))}: {what}", said])))


def output_of(arguments, timeout, environment=None, accept=(0,)):
    """Runs a command and returns what it prints."""
    with tempfile.TemporaryFile() as output:
        run(arguments, timeout, environment, output, accept)
        output.seek(0)
        return output.read().decode(errors="surrogateescape")
