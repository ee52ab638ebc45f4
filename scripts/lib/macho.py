"""Says what a program for macOS is made for and which libraries it loads; fails unless it is
for that processor and that version, and every library is one of the system's."""

import struct
import sys

PROCESSORS = {"aarch64-apple-darwin": 0x0100000C, "x86_64-apple-darwin": 0x01000007}
MAGIC, EXECUTABLE = 0xFEEDFACF, 2
LOAD_DYLIB = {0xC, 0x80000018, 0x8000001F}  # needed, weak, re-exported
BUILD_VERSION, MIN_VERSION = 0x32, 0x24
SYSTEM = ("/usr/lib/", "/System/Library/")


def commands(data):
    count = struct.unpack_from("<I", data, 16)[0]
    at = 32
    for _ in range(count):
        kind, size = struct.unpack_from("<II", data, at)
        yield kind, data[at : at + size]
        at += size


def main(target, oldest, path):
    with open(path, "rb") as file:
        data = file.read()
    magic, processor, _, kind = struct.unpack_from("<IIII", data)
    if magic != MAGIC or kind != EXECUTABLE or processor != PROCESSORS[target]:
        sys.exit(f"{path} is no program for {target}")
    libraries, made_for = [], "?"
    for kind, command in commands(data):
        if kind in LOAD_DYLIB:
            start = struct.unpack_from("<I", command, 8)[0]
            libraries.append(command[start:].split(b"\0")[0].decode())
        elif kind in (BUILD_VERSION, MIN_VERSION):
            version = struct.unpack_from("<I", command, 12 if kind == BUILD_VERSION else 8)[0]
            made_for = f"{version >> 16}.{version >> 8 & 0xFF}"
    print(f"{path}: {target}, macOS {made_for} or newer, {len(data) >> 20} MiB, loads {', '.join(libraries)}")
    foreign = [name for name in libraries if not name.startswith(SYSTEM)]
    if made_for != oldest:
        sys.exit(f"it was to be for macOS {oldest}")
    if foreign:
        sys.exit(f"a Mac doesn't have {', '.join(foreign)}")


main(*sys.argv[1:])
