#!/usr/bin/env python3
"""A reader of tresor repositories of format 1 in a local directory.

It was written from docs/format.md alone, to show that one can. § points at its sections.

    reader.py REPO PASSWORD_FILE list
    reader.py REPO PASSWORD_FILE ls SNAPSHOT [--sha256]
    reader.py REPO PASSWORD_FILE cat SNAPSHOT PATH
    reader.py REPO PASSWORD_FILE extract SNAPSHOT DIR
    reader.py REPO PASSWORD_FILE forgotten
    reader.py REPO PASSWORD_FILE verify

SNAPSHOT is the beginning of an id, or `latest`. What can't be read is named on the standard
error, its neighbours are read all the same, and the exit code is 1.
"""
import hashlib, json, os, re, sys
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import argon2.low_level as argon2
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from structures import (CONFIG, CONFIG_SECRET, CONTENT, CONTENT_PAGE, FORGOTTEN, INDEX, KEY_SLOT,
                        KINDS, PACK_TABLE, SLOT_INFO, SNAPSHOT, TREE_PAGE, U32, Damaged, decode, naming,
                        need, raw, record)

MAX_PLAIN, MAX_PACK, MAX_SEGMENT = 64 << 20, 64 << 20, 16 << 20  # §4, §6
DATA, TREE = 0, 1
FILE, DIRECTORY, SYMLINK = 0, 1, 2


# §3 to §5. Keys, sealing, compression

def derive(master, purpose, salt=b""):
    return blake3(master + salt, derive_key_context=f"tresor format 1 {purpose}").digest()


def open_piece(key, offset, aad, sealed):
    try:
        return AESGCM(key).decrypt(bytes(4) + offset.to_bytes(8, "big"), sealed, aad)
    except (InvalidTag, ValueError):
        raise Damaged("failed authentication") from None


def u32(data, at=0):
    need(len(data) >= at + 4, "too short")
    return int.from_bytes(data[at:at + 4], "little")


def decompress(payload, length):
    need(payload and payload[0] in (0, 1), "unknown compression method")
    result = payload[1:]
    if payload[0] == 1:
        try:
            promised = zstandard.get_frame_parameters(result).content_size
            need(promised in (length, zstandard.CONTENTSIZE_UNKNOWN), f"content size is not {length}")
            result = zstandard.ZstdDecompressor(max_window_size=MAX_PLAIN).decompress(
                result, max_output_size=max(length, 1), allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(str(error)) from None
    need(len(result) == length, f"decompressed length is not {length}")
    return result


def open_sealed(master, magic, purpose, data):
    """§4. The payload of a sealed object."""
    need(data[:8] == magic, f"magic is not {magic.decode()}")
    text = open_piece(derive(master, purpose, data[8:40]), 0, magic, data[40:])
    length, plain = u32(text), u32(text, 4)
    need(plain <= MAX_PLAIN, "plain length over the limit")
    need(8 + length <= len(text), "payload longer than its text")
    return decompress(text[8:8 + length], plain)


def open_slot(data, password, repository):
    """§3. The master key from a key slot."""
    kind = decode(record(kind=(0, U32)), data).kind
    need(kind == 0, f"unknown kind {kind}")
    slot = decode(KEY_SLOT, data)
    need(8192 <= slot.memory <= 1 << 20 and 1 <= slot.passes <= 64 and 1 <= slot.lanes <= 64,
         "cost out of bounds")
    key = argon2.hash_secret_raw(password, slot.salt, slot.passes, slot.memory, slot.lanes, 32,
                                 argon2.Type.ID, 0x13)
    master = open_piece(key, 0, repository, slot.wrapped)
    need(len(master) == 32, "master key is not 32 bytes long")
    return master


# §6. Packs

class Place(NamedTuple):
    marked: bool
    pack: bytes
    salt: bytes
    offset: int
    sealed: int
    plain: int
    start: int
    length: int


def layout(segments, size):
    """Checks the limits of §6; [(offset, segment, plain length, [(id, start, length)])]."""
    need(60 <= size <= MAX_PACK, f"impossible pack length {size}")
    offset, result = 40, []
    for segment in segments:
        need(segment.blobs and len(segment.blobs) % 36 == 0, "impossible blob list")
        need(17 <= segment.sealed <= MAX_SEGMENT + 1024, "impossible sealed length")
        start, blobs = 0, []
        for at in range(0, len(segment.blobs), 36):
            length = u32(segment.blobs, at + 32)
            blobs.append((segment.blobs[at:at + 32], start, length))
            start += length
        need(start <= MAX_SEGMENT, "segment over the limit")
        result.append((offset, segment, start, blobs))
        offset += segment.sealed
    need(offset + 20 <= size, "segments longer than the pack")
    return result


def read_table(key, data):
    """The segments that a pack's table lists; checks every piece but the segments."""
    size = len(data)
    need(60 <= size <= MAX_PACK, f"impossible pack length {size}")
    need(data[:8] == b"TRSRPK01", "magic is not TRSRPK01")
    sealed = u32(open_piece(key, size - 20, b"trailer", data[-20:]))
    start = size - 20 - sealed
    need(start >= 40, "table longer than the pack")
    table = open_piece(key, start, b"table", data[start:size - 20])
    need(u32(table) <= MAX_SEGMENT, "table over the limit")
    segments = decode(PACK_TABLE, decompress(table[4:], u32(table))).segments
    end = 40 + sum(segment.sealed for segment in segments)
    need(end <= start, "segments reach into the table")
    open_piece(key, end, b"padding", data[end:start])
    return segments


class Repository:
    def __init__(self, folder, password):
        self.folder, self.errors, self.index_was_read_again = folder, 0, False
        self.unlock(password)
        # §13: what came last is read first.
        self.snapshots = self.read_all("snapshots", b"TRSRSN01", "snapshot", SNAPSHOT)
        self.read_index()

    def report(self, text):
        self.errors += 1
        print(f"reader: {text}", file=sys.stderr)

    @contextmanager
    def guard(self, what):
        """§12: refusing one thing doesn't mean refusing its neighbours."""
        try:
            yield
        except Damaged as why:
            self.report(f"{what}: {why}")

    # §2. The store

    def names(self, folder):
        path = os.path.join(self.folder, folder)
        found = os.scandir(path) if os.path.isdir(path) else []
        return sorted(e.name for e in found if re.fullmatch("[0-9a-f]{64}", e.name) and e.is_file())

    def read(self, folder, id, limit=None):
        path = os.path.join(self.folder, folder, id)
        need(not limit or os.path.getsize(path) <= limit, "object over the limit")
        with open(path, "rb") as file:
            data = file.read()
        need(blake3(data).hexdigest() == id, "name is not the hash of the bytes")
        return data

    def read_all(self, folder, magic, purpose, check):
        """The readable sealed objects of a folder by id; damaged ones are reported."""
        result = {}
        for id in self.names(folder):
            try:
                data = open_sealed(self.master, magic, purpose, self.read(folder, id))
                result[id] = decode(check, data)
            except Damaged as why:
                self.report(f"{folder}/{id}: {why}")
        return result

    def unlock(self, password):
        """§3, §15.1 to 3."""
        with open(os.path.join(self.folder, "config"), "rb") as file:
            data = file.read()
        with naming("config"):
            opening = decode(record(what=(0, raw), version=(1, raw)), data)
            need(opening.what == "tresor", "not a repository of tresor")
            need(opening.version == 1, f"unknown format version {opening.version}")
            config = decode(CONFIG, data)
            need(not config.features, f"unknown features {config.features}")
        self.master = self.open_keys(password, config.id)
        self.blob_keys = [derive(self.master, f"{kind} blob id") for kind in ("data", "tree")]
        with naming("config"):
            secret = decode(CONFIG_SECRET, open_sealed(self.master, b"TRSRCF01", "config", config.secret))
            for field in ("version", "id", "features", "writer_features", "parity"):
                need(getattr(secret, field) == getattr(config, field), f"{field} altered")
            sizes = secret.sizes
            need(1 << 10 <= sizes.least <= 1 << 20 and sizes.least <= sizes.average <= 4 << 20
                 and sizes.average <= sizes.most <= 8 << 20, "impossible chunk sizes")

    def open_keys(self, password, repository):
        refused = []
        for id in self.names("keys"):
            try:
                return open_slot(self.read("keys", id), password, repository)
            except Damaged as why:
                refused.append(f"\n  keys/{id}: {why}")
        raise Damaged(f"wrong password, no key slot opens{''.join(refused)}")

    # §7. The index

    def read_index(self):
        while True:
            try:
                objects = self.read_all("index", b"TRSRIX01", "index", INDEX)
                break
            except FileNotFoundError:
                continue  # a prune is running
        for id, index in list(objects.items()):
            try:
                for pack in index.packs:
                    with naming(f"pack {pack.id.hex()}"):
                        pack.layout = layout(pack.segments, pack.size)
            except Damaged as why:
                self.report(f"index/{id}: {why}")
                del objects[id]
        replaced = {id.hex() for index in objects.values() for id in index.replaces}
        self.packs = {}  # id: its entries in force
        for id, index in objects.items():
            for pack in index.packs if id not in replaced else ():
                self.packs.setdefault(pack.id, []).append(pack)
        self.places = {}  # id of a blob: where it is
        for id, entries in self.packs.items():
            marked = all(entry.marked is not None for entry in entries)
            for entry in entries:
                for offset, segment, plain, blobs in entry.layout:
                    for blob, start, length in blobs:
                        self.places.setdefault(blob, set()).add(Place(
                            marked, id, entry.salt, offset, segment.sealed, plain, start, length))
        self.index_size = len(objects), len(objects.keys() & replaced)

    # §15.6. Blobs

    @lru_cache(maxsize=8)
    def segment(self, pack, salt, offset, sealed, plain):
        with open(os.path.join(self.folder, "packs", pack.hex()[:2], pack.hex()), "rb") as file:
            file.seek(offset)
            data = file.read(sealed)
        need(len(data) == sealed, "pack is too short")
        return decompress(open_piece(derive(self.master, "pack", salt), offset, b"segment", data), plain)

    def check_blob(self, kind, id, data):
        need(blake3(data, key=self.blob_keys[kind]).digest() == id, f"blob {id.hex()}: id is wrong")

    def blob(self, kind, id):
        refused, gone = [], id not in self.places
        for place in sorted(self.places.get(id, ())):  # unmarked ones first
            try:
                data = self.segment(*place[1:6])[place.start:place.start + place.length]
                self.check_blob(kind, id, data)
                return data
            except (Damaged, OSError) as why:
                refused.append(f"; pack {place.pack.hex()} at {place.offset}: {why}")
                gone |= isinstance(why, FileNotFoundError)
        if gone and not self.index_was_read_again:  # §7: a prune may have moved it
            self.index_was_read_again = True
            self.read_index()
            return self.blob(kind, id)
        raise Damaged(f"blob {id.hex()}: {'not in the index' if not refused else 'no intact place'}"
                      + "".join(refused))

    # §9. Trees

    def page(self, id):
        variant, items = decode(TREE_PAGE, self.blob(TREE, id))
        need(all(a.name < b.name for a, b in zip(items, items[1:])), "names out of order")
        return variant, items

    def nodes(self, first_page, path):
        """The nodes of a directory, in order. A page that is refused is reported and left out."""
        last, pages = b"", [(first_page, None, None)]
        while pages:
            id, first, count = pages.pop()
            try:
                variant, items = self.page(id)
                need(not items or items[0].name > last, "names out of order")
                if first is not None:  # named by a branch
                    need(items and items[0].name == first, "its first name is not the branch's")
                    need(count == (sum(b.count for b in items) if variant == 1 else len(items)),
                         "its number of entries is not the branch's")
            except Damaged as why:
                self.report(f"{show(path)}/: page {id.hex()}: {why}")
                continue
            if variant == 1:
                pages += [(branch.page, branch.name, branch.count) for branch in reversed(items)]
            else:
                last = items[-1].name if items else last
                yield from items

    def walk(self, snapshot):
        """(path, node) of every entry of a snapshot."""
        directories = [(b"", snapshot.root)]
        while directories:
            path, page = directories.pop()
            for node in self.nodes(page, path):
                yield path + b"/" + node.name, node
                if node.kind == DIRECTORY and node.page is None:
                    self.report(f"{show(path + b'/' + node.name)}: directory without a page")
                elif node.kind == DIRECTORY:
                    directories.append((path + b"/" + node.name, node.page))

    def find(self, snapshot, path):
        """§15.7. The node at a path."""
        page, node = snapshot.root, None
        for part in filter(None, path.split(b"/")):
            need(page, f"{show(path)}: not found")
            variant, items = self.page(page)
            while variant == 1:
                below = [branch.page for branch in items if branch.name <= part]
                variant, items = self.page(below[-1]) if below else (0, [])
            node = next((node for node in items if node.name == part), None)
            need(node, f"{show(path)}: not found")
            page = node.page if node.kind == DIRECTORY else None
        return node

    def extents(self, level, pages):
        for page in pages:
            with naming(f"page {page.id.hex()}"):
                variant, items = decode(CONTENT_PAGE, self.blob(TREE, page.id))
                need(variant == min(level - 1, 1), "page of the wrong level")
                need(page.length == sum(item.length for item in items), "lengths don't add up")
            yield from items if level == 1 else self.extents(level - 1, items)

    def content(self, node):
        """§9, contents. (length, bytes, or None for a hole) for each extent of a file."""
        need(node.kind == FILE, "not a file")
        need(node.content is not None, "file without content")
        yield from self.pieces(node.content, node.size)

    def pieces(self, content, size=None):
        variant, *fields = CONTENT(content)
        if variant == 0:
            need(size in (None, len(fields[0])), "length is not the size")
            yield len(fields[0]), fields[0]
            return
        extents = list(fields[0] if variant == 1 else self.extents(*fields))
        need(all(extent.length > 0 for extent in extents), "an extent of no length")
        need(size in (None, sum(extent.length for extent in extents)), "lengths don't add up to the size")
        for extent in extents:
            data = self.blob(DATA, extent.id) if extent.id else None
            need(data is None or len(data) == extent.length, "length of a blob is not its extent's")
            yield extent.length, data

    def attributes(self, node):
        """§9. Name and value of each extended attribute, also of those that are streams."""
        yield from ((attr.name, attr.value) for attr in node.xattrs or [])
        for stream in node.streams or []:
            need(stream.name not in {attr.name for attr in node.xattrs or []}, "a stream that is an attribute, too")
            pieces = self.pieces(stream.content)
            yield stream.name, b"".join(bytes(length) if data is None else data for length, data in pieces)

    def write(self, node, write):
        """The bytes of a file, holes too."""
        for length, data in self.content(node):
            for start in range(0, length, 1 << 20):
                write(data[start:start + (1 << 20)] if data else bytes(min(1 << 20, length - start)))

    # Commands

    def snapshot(self, wanted):
        found = [id for id in self.snapshots if id.startswith(wanted)]
        if wanted == "latest":
            found = sorted(self.snapshots, key=lambda id: self.snapshots[id].time)[-1:]
        need(len(found) == 1, f"snapshot {wanted}: {'ambiguous' if found else 'not found'}")
        return self.snapshots[found[0]]

    def list(self):
        for id, snapshot in sorted(self.snapshots.items(), key=lambda item: (item[1].time, item[0])):
            print(json.dumps({"id": id, "time_ns": snapshot.time, "host": snapshot.host,
                              "paths": list(map(show, snapshot.paths)), "tags": snapshot.tags}))

    def ls(self, wanted, sha256=None):
        for path, node in sorted(self.walk(self.snapshot(wanted)), key=lambda item: item[0]):
            with self.guard(show(path)):
                print(json.dumps(self.describe(path, node, sha256)))

    def describe(self, path, node, sha256):
        line = {"path": show(path), "kind": KINDS[node.kind], "size": node.size, "mode": node.mode,
                "uid": node.uid, "gid": node.gid, "mtime_ns": node.mtime}
        if node.kind == SYMLINK:
            line["target"] = show(self.target(node))
        if node.device is not None:
            line["device"] = node.device
        if attributes := list(self.attributes(node)):
            line["xattrs"] = dict(sorted((show(name), value.hex()) for name, value in attributes))
        if sha256 and node.kind == FILE:
            digest = hashlib.sha256()
            self.write(node, digest.update)
            line["sha256"] = digest.hexdigest()
        return line

    def cat(self, wanted, path):
        node = self.find(self.snapshot(wanted), os.fsencode(path))
        with naming(path):
            need(node, "not a file")
            self.write(node, sys.stdout.buffer.write)

    def extract(self, wanted, folder):
        root = os.fsencode(folder)
        os.makedirs(root, exist_ok=True)
        need(not os.listdir(root), f"{folder} is not empty")
        done = []
        for path, node in self.walk(self.snapshot(wanted)):
            with self.guard(show(path)):
                if node.kind == DIRECTORY:
                    os.mkdir(root + path, 0o700)
                elif node.kind == SYMLINK:
                    os.symlink(self.target(node), root + path)
                elif node.kind == FILE:
                    self.extract_file(node, root + path)
                else:
                    print(f"reader: {show(path)}: a {KINDS[node.kind]}, left out", file=sys.stderr)
                    continue
                done.append((root + path, node))
        for path, node in reversed(done):  # directories after what is in them
            if node.kind != SYMLINK:
                os.chmod(path, node.mode & 0o7777)
            os.utime(path, ns=(node.atime, node.mtime), follow_symlinks=False)

    def extract_file(self, node, path):
        try:
            with open(path, "xb") as file:
                for length, data in self.content(node):
                    file.write(data) if data is not None else file.seek(length, os.SEEK_CUR)
                file.truncate(node.size)
        except Damaged:  # §12: never a shorter file
            os.unlink(path)
            raise

    def forgotten(self):
        """§8. What was removed on purpose."""
        records = self.read_all("forgotten", b"TRSRFG01", "forgotten", FORGOTTEN).values()
        for kind in ("snapshots", "key_slots"):
            for id in sorted({entry.id.hex() for r in records for entry in getattr(r, kind)}):
                print(json.dumps({"kind": kind, "id": id}))

    def verify(self):
        blobs = 0
        records = self.read_all("forgotten", b"TRSRFG01", "forgotten", FORGOTTEN)
        unseen = set(self.packs)
        slots = self.names("keys")
        for id in slots:
            with self.guard(f"keys/{id}"):
                if decode(record(kind=(0, U32)), data := self.read("keys", id)).kind == 0:
                    info = decode(KEY_SLOT, data).info
                    decode(SLOT_INFO, open_sealed(self.master, b"TRSRKI01", "slot info", info))
        marked = sum(all(entry.marked is not None for entry in entries) for entries in self.packs.values())
        packs = [id for n in range(256) for id in self.names(f"packs/{n:02x}") if id[:2] == f"{n:02x}"]
        for id in packs:
            unseen.discard(bytes.fromhex(id))
            with self.guard(f"packs/{id[:2]}/{id}"):
                blobs += self.verify_pack(id)
        for id in sorted(unseen):
            self.report(f"pack {id.hex()}: in the index, but not in the store")
        entries = 0
        for id, snapshot in self.snapshots.items():
            for path, node in self.walk(snapshot):
                entries += 1
                with self.guard(f"snapshot {id}: {show(path)}"):
                    need(node.kind != SYMLINK or node.size == len(self.target(node)),
                         "size is not the length of the target")
                    need(node.kind <= SYMLINK or node.size == 0, "size of a special file is not 0")
                    if node.kind == FILE:
                        for _ in self.content(node):
                            pass
                    for _ in self.attributes(node):
                        pass
        print(json.dumps({"slots": len(slots), "packs": len(packs), "blobs": blobs,
                          "unindexed": len(set(packs) - {id.hex() for id in self.packs}),
                          "marked": marked, "index": self.index_size[0], "replaced": self.index_size[1],
                          "snapshots": len(self.snapshots), "records": len(records), "entries": entries, "errors": self.errors}))

    def verify_pack(self, id):
        """All of a pack, and that its entries in force say the same; the number of blobs."""
        data = self.read(f"packs/{id[:2]}", id, MAX_PACK)
        salt, count = data[8:40], 0
        key = derive(self.master, "pack", salt)
        segments = read_table(key, data)
        for offset, segment, plain, blobs in layout(segments, len(data)):
            with self.guard(f"pack {id}, segment at {offset}"):
                sealed = data[offset:offset + segment.sealed]
                text = decompress(open_piece(key, offset, b"segment", sealed), plain)
                for blob, start, length in blobs:
                    self.check_blob(segment.kind, blob, text[start:start + length])
                    count += 1
        for entry in self.packs.get(bytes.fromhex(id), ()):
            need((entry.salt, entry.size, entry.segments) == (salt, len(data), segments),
                 "its entry in the index says otherwise")
        return count

    @staticmethod
    def target(node):
        need(node.target is not None, "symlink without a target")
        return node.target


def show(raw_bytes):
    return raw_bytes.decode("utf-8", "backslashreplace")


def main(arguments):
    commands = {"list": 0, "ls": 1, "cat": 2, "extract": 2, "forgotten": 0, "verify": 0}
    sha256 = "--sha256" in arguments
    arguments = [argument for argument in arguments if argument != "--sha256"]
    if len(arguments) < 3 or commands.get(arguments[2]) != len(arguments) - 3:
        sys.exit(__doc__)
    folder, password_file, command, *rest = arguments
    try:
        with open(password_file, "rb") as file:
            password = file.read().split(b"\n")[0]  # its first line
        repository = Repository(folder, password)
        getattr(repository, command)(*rest, *([True] if sha256 else []))
    except (Damaged, OSError) as why:
        sys.exit(f"reader: {why}")
    sys.exit(repository.errors > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
