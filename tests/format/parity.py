#!/usr/bin/env python3
"""Parity of tresor repositories of format 1, without a key.

It was written from docs/format.md alone, to show that one can. § points at its sections.

    parity.py REPO verify            every object has whole parity, and that is of this object
    parity.py REPO mend PATH         writes the object as it must be to the standard output

PATH is that of an object in the repository, like index/0123…
"""
import os, random, sys

from blake3 import blake3

MAGIC, HEAD, SUM, HASH, PER_BLOCK = b"TRSRPR01", 60, 32, 8, 500


class Damaged(Exception):
    pass


def need(fact, reason):
    if not fact:
        raise Damaged(reason)


def shard_hash(shard):
    return blake3(shard).digest()[:HASH]


# §17. Layout

class Shape:
    """What every block of the table repeats, and what follows from it."""

    def __init__(self, head):
        self.head, self.object = head, head[8:40]
        self.length = int.from_bytes(head[40:48], "little")
        self.shard = int.from_bytes(head[48:52], "little")
        self.parity = int.from_bytes(head[52:56], "little")
        need(self.shard % 64 == 0 and 64 <= self.shard <= 4096, "impossible shard length")
        need(self.length <= 72 << 20 and 1 <= self.parity < 32768, "impossible shape")
        self.originals = max(1, -(-self.length // self.shard))
        self.fold = 1 << (self.parity - 1).bit_length()  # field elements before the object's
        need(self.originals + self.fold <= 65536, "too many shards")
        self.hashes = self.originals + self.parity
        self.blocks = -(-self.hashes // PER_BLOCK)

    def count(self, block):
        return min(PER_BLOCK, self.hashes - block * PER_BLOCK)

    def block_length(self, block):
        length = HEAD + HASH * self.count(block) + SUM
        return -(-length // self.shard) * self.shard

    @property
    def table_length(self):
        return sum(map(self.block_length, range(self.blocks)))

    def split(self, data):
        """An object as shards."""
        data = data[:self.length].ljust(self.originals * self.shard, b"\0")
        return [data[at:at + self.shard] for at in range(0, len(data), self.shard)]


def read_blocks(data):
    """Whole blocks anywhere: (offset, shape, number, hashes)."""
    for at in range(0, len(data), 64):
        head = data[at:at + HEAD]
        if not head.startswith(MAGIC) or len(head) < HEAD:
            continue
        try:
            shape = Shape(head[:56])
        except Damaged:
            continue
        number = int.from_bytes(head[56:60], "little")
        if number >= shape.blocks:
            continue
        end = at + HEAD + HASH * shape.count(number)
        if blake3(data[at:end]).digest() == data[end:end + SUM]:
            hashes = data[at + HEAD:end]
            yield at, shape, number, [hashes[n:n + HASH] for n in range(0, len(hashes), HASH)]


def read_table(data, name):
    """The shape and the hashes that are left; None for a hash that is lost."""
    shape = hashes = None
    for _, found, number, some in read_blocks(data):
        if name is not None and found.object != name:
            continue
        if shape is None:
            shape, hashes = found, [None] * found.hashes
        if found.head == shape.head:
            hashes[number * PER_BLOCK:number * PER_BLOCK + len(some)] = some
    need(shape, "nothing of its table is left")
    return shape, hashes


def parity_shards(shape, data):
    at = shape.table_length
    return [data[at + n * shape.shard:at + (n + 1) * shape.shard] for n in range(shape.parity)]


# §17. The code

def make_field():
    """Tables of logarithms and powers, of elements by their numbers."""
    basis = [0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012,
             0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34, 0xFF38, 0x991E]
    element = [0]
    for vector in basis:
        element += [low ^ vector for low in element]
    number = {value: n for n, value in enumerate(element)}
    log, exp, power = [0] * 65536, [0] * 131070, 1
    for n in range(65535):
        log[number[power]] = n
        exp[n] = exp[n + 65535] = number[power]
        power <<= 1
        if power >> 16:
            power ^= 0x1002D
    return log, exp


LOG, EXP = make_field()


def times(a, b):
    return EXP[LOG[a] + LOG[b]] if a and b else 0


def power(x, n):
    """x to the n, where 0 to the 0 is 1."""
    return 1 if n == 0 else EXP[LOG[x] * n % 65535] if x else 0


def invert(matrix):
    """Gauss and Jordan."""
    size = len(matrix)
    rows = [row[:] + [int(n == at) for n in range(size)] for at, row in enumerate(matrix)]
    for at in range(size):
        pivot = next(n for n in range(at, size) if rows[n][at])
        rows[at], rows[pivot] = rows[pivot], rows[at]
        factor = EXP[65535 - LOG[rows[at][at]]]
        rows[at] = [times(value, factor) for value in rows[at]]
        for n in range(size):
            if n != at and rows[n][at]:
                factor = rows[n][at]
                rows[n] = [a ^ times(b, factor) for a, b in zip(rows[n], rows[at])]
    return [row[size:] for row in rows]


def symbols(shard):
    """Each 64 bytes are 32 numbers: their low bytes, then their high ones."""
    return [shard[at + n] | shard[at + 32 + n] << 8
            for at in range(0, len(shard), 64) for n in range(32)]


def shard_of(numbers):
    return b"".join(bytes(n & 255 for n in numbers[at:at + 32]) +
                    bytes(n >> 8 for n in numbers[at:at + 32]) for at in range(0, len(numbers), 32))


def solve(shape, known, places=None):
    """All unknown symbols of the code word: {position: symbols}. `known` is {position: symbols};
    parity has the positions from 0, the object's shards those from `fold`. For all j from 0
    to the number of the unknown, the sum of symbol × positionʲ is 0."""
    unknown = [n for n in range(shape.fold + shape.originals) if n not in known]
    need(len(unknown) <= shape.fold, "more is damaged than there is parity")
    inverse = invert([[power(x, j) for x in unknown] for j in range(len(unknown))])
    powers = {x: [power(x, j) for j in range(len(unknown))] for x in known}
    result = {x: [] for x in unknown}
    for place in range(shape.shard // 2) if places is None else places:
        sums = [0] * len(unknown)
        for x, numbers in known.items():
            if numbers[place]:
                for j, factor in enumerate(powers[x]):
                    sums[j] ^= times(numbers[place], factor)
        for x, row in zip(unknown, inverse):
            value = 0
            for a, b in zip(row, sums):
                value ^= times(a, b)
            result[x].append(value)
    return result


def mend(data, parity, name):
    shape, hashes = read_table(parity, name)
    good = lambda shard, n: len(shard) == shape.shard and shard_hash(shard) == hashes[n]
    shards, extra = shape.split(data), parity_shards(shape, parity)
    known = {shape.fold + n: symbols(shard) for n, shard in enumerate(shards) if good(shard, n)}
    known |= {n: symbols(shard) for n, shard in enumerate(extra) if good(shard, shape.originals + n)}
    for position, numbers in solve(shape, known).items():
        if position >= shape.fold:
            shards[position - shape.fold] = shard_of(numbers)
    mended = b"".join(shards)[:shape.length]
    need(blake3(mended).digest() == shape.object, "can't be mended")
    return mended


def verify(data, parity, name):
    shape, hashes = read_table(parity, name)
    need(shape.object == blake3(data).digest() and shape.length == len(data), "is of other bytes")
    blocks = list(read_blocks(parity))
    starts, at = [], 0
    for block in range(shape.blocks):
        starts.append(at)
        at += shape.block_length(block)
    behind = at + shape.parity * shape.shard
    need([block[0] for block in blocks] == starts + [behind + start for start in starts],
         "its tables are not where they must be")
    need(parity[:at] == parity[behind:], "its two tables differ")
    for start, block in zip(starts, range(shape.blocks)):
        end = start + HEAD + HASH * shape.count(block) + SUM
        need(not any(parity[end:start + shape.block_length(block)]), "what fills a block up isn't zero")
    shards, extra = shape.split(data), parity_shards(shape, parity)
    need([shard_hash(shard) for shard in shards + extra] == hashes, "wrong hashes")
    # Some places of all shards: of each 64 bytes one, at most 8.
    places = random.sample(range(0, shape.shard // 2), min(8, shape.shard // 64))
    known = {shape.fold + n: symbols(shard) for n, shard in enumerate(shards)}
    for n, numbers in solve(shape, known, places).items():
        if n < shape.parity:
            stored = symbols(extra[n])
            need(numbers == [stored[place] for place in places], f"piece {n} is not what it must be")


# §2. The store

def read(path):
    with open(path, "rb") as file:
        return file.read()


def parity_path(repository, name):
    return os.path.join(repository, "parity", name[:2], name)


def objects(repository):
    """(path, name in hexadecimal)"""
    yield "config", "0" * 64
    for folder in "keys", "packs", "index", "snapshots", "forgotten":
        for at, _, files in os.walk(os.path.join(repository, folder)):
            for name in files:
                if len(name) == 64:
                    yield os.path.relpath(os.path.join(at, name), repository), name


def hash_of(name):
    """The config has no hash in its name."""
    return None if name == "0" * 64 else bytes.fromhex(name)


def verify_all(repository):
    wanted, errors = set(), 0
    for path, name in objects(repository):
        place = parity_path(repository, name)
        wanted.add(place)
        try:
            need(os.path.exists(place), "has no parity")
            verify(read(os.path.join(repository, path)), read(place), hash_of(name))
        except Damaged as error:
            errors += 1
            print(f"{path}: {error}", file=sys.stderr)
    for at, _, files in os.walk(os.path.join(repository, "parity")):
        for name in files:
            if os.path.join(at, name) not in wanted:
                errors += 1
                print(f"{name}: is the parity of no object", file=sys.stderr)
    print(f"{len(wanted)} objects have parity")
    return errors


def main():
    repository, what, *rest = sys.argv[1:]
    if what == "verify":
        return min(verify_all(repository), 1)
    name = "0" * 64 if rest[0] == "config" else os.path.basename(rest[0])
    parity = read(parity_path(repository, name))
    sys.stdout.buffer.write(mend(read(os.path.join(repository, rest[0])), parity, hash_of(name)))


if __name__ == "__main__":
    sys.exit(main())
