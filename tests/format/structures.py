"""The structures of format 1. § points at sections of docs/format.md.

§1: each type is a function that checks a decoded value and returns it. A missing value and null
are both None here; unknown map keys and further array elements are skipped.
"""
import io
from contextlib import contextmanager
from types import SimpleNamespace

import cbor2

KINDS = ["file", "directory", "symlink", "fifo", "socket", "chardevice", "blockdevice"]  # §9


class Damaged(Exception):
    """Something that a reader must refuse."""


def need(holds, why):
    if not holds:
        raise Damaged(why)


@contextmanager
def naming(what):
    """Says what it is that is refused."""
    try:
        yield
    except Damaged as why:
        raise Damaged(f"{what}: {why}") from None


def integer(low, high):
    def check(value):
        need(type(value) is int and low <= value <= high, f"no integer from {low} to {high}")
        return value
    return check


def instance(kind, size=None):
    def check(value):
        need(type(value) is kind, f"{type(value).__name__} instead of {kind.__name__}")
        need(size is None or len(value) == size, f"not {size} bytes long")
        return value
    return check


def optional(check):
    return lambda value: None if value is None else check(value)


def list_of(check):
    return lambda values: [check(value) for value in instance(list)(values)]


def array(**fields):
    def check(values):
        padded = instance(list)(values) + [None] * len(fields)
        return named((n, c, v) for (n, c), v in zip(fields.items(), padded))
    return check


def record(**fields):
    def check(values):
        instance(dict)(values)
        return named((n, c, values.get(key)) for n, (key, c) in fields.items())
    return check


def named(fields):
    result = SimpleNamespace()
    for name, check, value in fields:
        with naming(name):
            setattr(result, name, check(value))
    return result


def enum(*variants):
    """[variant, [field]]; every enum with fields in the format but `pages` has just one."""
    def check(value):
        need(len(instance(list)(value)) >= 2, "not an enum")
        with naming("variant"):
            integer(0, len(variants) - 1)(value[0])
        fields = instance(list)(value[1]) + [None] * len(variants[value[0]])
        return value[0], *(c(v) for c, v in zip(variants[value[0]], fields))
    return check


def time(value):
    parts = array(seconds=I64, nanos=integer(0, 999_999_999))(value)
    return parts.seconds * 10**9 + parts.nanos


def name(value):
    """§9, node key 0."""
    need(instance(bytes)(value) not in (b"", b".", b"..") and not {0, 47} & set(value),
         f"impossible name {value!r}")
    return value


def streams(value):
    """§9, node key 18."""
    found = list_of(array(name=instance(bytes), content=lambda content: content))(value)
    names = [stream.name for stream in found]
    need(names == sorted(set(names)) and len(names) <= 4096, "streams out of order, twice, or too many")
    need(all(0 < len(name) <= 1024 and 0 not in name for name in names), "impossible name of a stream")
    return found


U32, U64 = (integer(0, 2**bits - 1) for bits in (32, 64))
I32, I64 = (integer(-(2**bits), 2**bits - 1) for bits in (31, 63))
bstr, bstr16, bstr32, tstr = instance(bytes), instance(bytes, 16), instance(bytes, 32), instance(str)
raw = lambda value: value

CONFIG = record(version=(1, U32), id=(2, bstr16), features=(3, list_of(tstr)), secret=(4, bstr),
                writer_features=(5, list_of(tstr)), parity=(6, optional(U32)))
CONFIG_SECRET = record(version=(0, U32), id=(1, bstr16), features=(2, list_of(tstr)), made=(3, time),
                       sizes=(4, array(least=U32, average=U32, most=U32)),
                       writer_features=(5, list_of(tstr)), parity=(6, optional(U32)))
KEY_SLOT = record(memory=(1, U32), passes=(2, U32), lanes=(3, U32), salt=(4, bstr32),
                  wrapped=(5, bstr), info=(6, bstr), repository=(7, bstr16))
SLOT_INFO = record(made=(0, time), label=(1, tstr))
SEGMENT = array(kind=integer(0, 1), sealed=U32, blobs=bstr)
PACK_TABLE = record(segments=(0, list_of(SEGMENT)))
INDEX = record(packs=(0, list_of(record(id=(0, bstr32), salt=(1, bstr32), size=(2, U64),
                                        segments=(3, list_of(SEGMENT)), marked=(4, optional(time))))),
               replaces=(1, list_of(bstr32)))
SUMMARY = record(**{f"n{key}": (key, instance(float) if key == 11 else U64) for key in range(13)})
LEFT_OUT = enum([], [list_of(bstr)])
SNAPSHOT = record(time=(0, time), zone=(1, I32), host=(2, tstr), user=(3, tstr),
                  paths=(4, list_of(bstr)), tags=(5, list_of(tstr)), root=(6, bstr32),
                  summary=(7, SUMMARY), program=(8, tstr), saved=(9, time),
                  left_out=(11, optional(LEFT_OUT)))
REMOVED = list_of(array(id=bstr32, at=time))
FORGOTTEN = record(snapshots=(0, REMOVED), key_slots=(1, REMOVED))
NODE = record(name=(0, name), kind=(1, integer(0, len(KINDS) - 1)), mode=(2, U32), uid=(3, U32),
              gid=(4, U32), user=(5, optional(tstr)), group=(6, optional(tstr)), mtime=(7, time),
              atime=(8, time), ctime=(9, time), inode=(10, U64), size=(11, U64), content=(12, raw),
              page=(13, optional(bstr32)), target=(14, optional(bstr)), device=(15, optional(U64)),
              link=(16, optional(array(device=U64, inode=U64, names=U32))),
              xattrs=(17, optional(list_of(array(name=bstr, value=bstr)))),
              streams=(18, optional(streams)), left_out=(19, optional(LEFT_OUT)))
BRANCH = array(name=name, count=U64, page=bstr32)
TREE_PAGE = enum([list_of(NODE)], [list_of(BRANCH)])
EXTENTS = list_of(array(length=U64, id=optional(bstr32)))
PAGES = list_of(array(length=U64, id=bstr32))
CONTENT = enum([bstr], [EXTENTS], [integer(1, 255), PAGES])
CONTENT_PAGE = enum([EXTENTS], [PAGES])


def decode(check, data):
    try:
        value = cbor2.CBORDecoder(io.BytesIO(data), allow_duplicate_keys=False).decode()
    except Exception as error:  # the library has several kinds, and some of Python's own
        raise Damaged(f"undecodable CBOR: {error}") from None
    return check(value)
