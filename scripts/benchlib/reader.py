"""Reads a file and prints how long that took, as JSON. A process of its own, so that
it can be ended if the drive hangs; it takes its times itself, so that its start isn't
part of them.

    reader.py sequential FILE
    reader.py random FILE COUNT SEED
    reader.py sha256 FILE

What Python adds to a read of 4 KiB is about 1 µs; the floor's figures have it, too.
"""

import hashlib
import json
import os
import random
import sys
import time

STEP = 1 << 20
PAGE = 4096


def sequential(path):
    buffer = bytearray(STEP)
    length = 0
    began = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            length += count
    return {"bytes": length, "seconds": time.perf_counter() - began}


def random_reads(path, count, seed):
    """Whole pages at places drawn without repetition, so that no read is a second one."""
    file = os.open(path, os.O_RDONLY)
    pages = os.fstat(file).st_size // PAGE
    places = random.Random(seed).sample(range(pages), min(count, pages))
    seconds = []
    for place in places:
        began = time.perf_counter()
        data = os.pread(file, PAGE, place * PAGE)
        seconds.append(time.perf_counter() - began)
        if len(data) != PAGE:
            raise OSError(f"{len(data)} bytes instead of {PAGE} at {place * PAGE}")
    os.close(file)
    return {"seconds": seconds}


def sha256(path):
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(STEP))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return {"sha256": digest.hexdigest()}


def main():
    what, path, *numbers = sys.argv[1:]
    if what == "random":
        answer = random_reads(path, *map(int, numbers))
    else:
        answer = {"sequential": sequential, "sha256": sha256}[what](path)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(str(error))
