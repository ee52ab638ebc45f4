#!/usr/bin/env python3
"""Checks the test values of docs/format.md, section 16, with the code of reader.py."""
import re, sys
from pathlib import Path

import argon2.low_level as argon2
import cbor2
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import reader, structures

MASTER, SALT, REPOSITORY = bytes(range(32)), bytes(range(32, 64)), bytes(range(16))
PACK_KEY, INDEX_KEY = (reader.derive(MASTER, purpose, SALT) for purpose in ("pack", "index"))


def padme(n):
    if n < 2:
        return n
    e = n.bit_length() - 1
    m = (1 << (e - e.bit_length())) - 1
    return (n + m) & ~m


def blob_id(kind, plaintext):
    return blake3(plaintext, key=reader.derive(MASTER, f"{kind} blob id")).hexdigest()


def chunker_table():
    stream = blake3(b"", key=reader.derive(MASTER, "chunker table")).digest(2048)
    return [int.from_bytes(stream[at:at + 8], "little") for at in (0, 2040)]


def slot_key():
    return argon2.hash_secret_raw(b"password", SALT, 1, 8192, 1, 32, argon2.Type.ID, 0x13)


def wrapped_master():
    wrapped = AESGCM(slot_key()).encrypt(bytes(12), MASTER, REPOSITORY)
    slot = {0: 0, 1: 8192, 2: 1, 3: 1, 4: SALT, 5: wrapped, 6: b"", 7: REPOSITORY}
    assert reader.open_slot(cbor2.dumps(slot), b"password", REPOSITORY) == MASTER
    return wrapped.hex()


def segment():
    sealed = AESGCM(PACK_KEY).encrypt(bytes(11) + b"\x28", b"\0abc", b"segment")
    assert reader.decompress(reader.open_piece(PACK_KEY, 40, b"segment", sealed), 3) == b"abc"
    return sealed.hex()


def empty_index():
    text = bytes.fromhex("06000000 05000000 00 a200800180")
    text += bytes(padme(40 + len(text) + 16) - 40 - len(text) - 16)
    sealed = AESGCM(INDEX_KEY).encrypt(bytes(12), text, b"TRSRIX01")
    assert 40 + len(sealed) == 72
    opened = reader.open_sealed(MASTER, b"TRSRIX01", "index", b"TRSRIX01" + SALT + sealed)
    assert structures.decode(structures.INDEX, opened).packs == []
    return sealed.hex()


def extents():
    value = [[5, b"\xaa" * 32], [7]]
    assert [(e.length, e.id) for e in structures.EXTENTS(value)] == [(5, b"\xaa" * 32), (7, None)]
    return cbor2.dumps([1, [value]]).hex()


def node():
    value = {0: b"a", 1: 0, 2: 0o644, 3: 0, 4: 0, 7: [1, 0], 8: [1, 0], 9: [1, 0], 10: 9, 11: 2,
             12: [0, [b"hi"]]}
    found = structures.NODE(value)
    assert (found.name, found.mtime, found.size) == (b"a", 10**9, 2)
    assert structures.CONTENT(found.content) == (0, b"hi")
    return cbor2.dumps(value).hex()


def stream():
    value = {18: [[b"u", [0, [b"hi"]]]]}
    assert [stream.name for stream in structures.streams(value[18])] == [b"u"]
    return cbor2.dumps(value)[1:].hex()


COMPUTED = {
    "derive `data blob id`": lambda: reader.derive(MASTER, "data blob id").hex(),
    "derive `tree blob id`": lambda: reader.derive(MASTER, "tree blob id").hex(),
    "derive `pack`, salt": PACK_KEY.hex,
    "derive `index`, salt": INDEX_KEY.hex,
    "derive `slot info`, salt": lambda: reader.derive(MASTER, "slot info", SALT).hex(),
    "id of the data blob `abc`": lambda: blob_id("data", b"abc"),
    "id of the tree blob `82008180`": lambda: blob_id("tree", bytes.fromhex("82008180")),
    "chunker table, first": lambda: ", ".join(f"{number:#018x}" for number in chunker_table()),
    "slot key": lambda: slot_key().hex(),
    "wrapped master key": wrapped_master,
    "segment of the blob `abc`": segment,
    "text and tag of an empty index object": empty_index,
    "padme of 9, 100, 1025, 65537, 5000000":
        lambda: ", ".join(str(padme(n)) for n in (9, 100, 1025, 65537, 5000000)),
    "extents: 5 bytes": extents,
    "the end of a node with the stream": stream,
    "file `a`, mode 0644": node,
}


def written(row):
    """The value of a row as it is computed here: CBOR there has blanks and an ellipsis."""
    value = row.replace("`", "").replace("aa…aa", "aa" * 32)
    return value.replace(" ", "") if re.fullmatch("[0-9a-f ]+", value) else value


def main():
    page = Path(__file__).resolve().parents[2] / "docs" / "format.md"
    rows = re.findall(r"^\| (.+) \| (.+) \|$", page.read_text().split("\n## 16.")[1].split("\n## ")[0], re.M)[2:]
    failed = len(rows) != len(COMPUTED)
    for (title, value), (start, compute) in zip(rows, COMPUTED.items()):
        computed = compute()
        if not title.startswith(start) or written(value) != computed:
            failed = True
            print(f"docs/format.md, 16: {title}: {written(value)}, but computed {start}: {computed}")
    print(f"{len(rows)} test values of docs/format.md" + (": FAILED" if failed else " hold"))
    sys.exit(failed)


if __name__ == "__main__":
    main()
