#!/usr/bin/env python3
"""Describes a folder and all in it, in the words of `reader.py REPO PASSWORD_FILE ls … --sha256`.

Bytes of names that are not UTF-8 look like \\xff.
"""
import hashlib, json, os, stat, sys

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
         stat.S_IFSOCK: "socket", stat.S_IFCHR: "chardevice", stat.S_IFBLK: "blockdevice"}


def show(path):
    return path.decode("utf-8", "backslashreplace")


def describe(path):
    found = os.lstat(path)
    kind = KINDS[stat.S_IFMT(found.st_mode)]
    line = {"path": show(path), "kind": kind,
            "size": found.st_size if kind in ("file", "symlink") else 0,
            "mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid,
            "mtime_ns": found.st_mtime_ns}
    if kind == "symlink":
        line["target"] = show(os.readlink(path))
    if kind in ("chardevice", "blockdevice"):
        line["device"] = found.st_rdev
    names = sorted(os.listxattr(path, follow_symlinks=False))
    if names:
        line["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in names}
    if kind == "file":
        with open(path, "rb") as file:
            line["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return line


def everything(root):
    yield root
    for folder, folders, files in os.walk(root):
        yield from (os.path.join(folder, name) for name in folders + files)


for path in sorted(everything(os.fsencode(sys.argv[1]))):
    print(json.dumps(describe(path)))
