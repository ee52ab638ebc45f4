"""What programs ask of a drive while they work: the requests that Windows' kernel makes of
their calls, with the access masks, options and buffers that these have."""

import os
import random
import struct
import threading

import drive
from drive import Status, Thread, wide
from mounted import meaning

SYNCHRONOUS, SEQUENTIAL, RANDOM = 0x20, 0x4, 0x800
BACKUP_INTENT, FREE_SPACE = 0x4000, 0x800000
LIST = drive.READ_DATA | drive.SYNCHRONIZE
ATTRIBUTES = drive.READ_ATTRIBUTES | drive.SYNCHRONIZE
GENERIC_WRITE, DELETE, WRITE_DAC, WRITE_OWNER = 0x120116, 0x10000, 0x40000, 0x80000
SUPERSEDE, OPEN, CREATE, OPEN_IF, OVERWRITE, OVERWRITE_IF = range(6)
PAGE, READ_AHEAD = 4096, 65536
SHOWN = 0x1 | 0x2 | 0x4 | 0x20 | 0x100 | 0x2000
SYMLINK = 0xA000000C


def same(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}: {found!r:.200} instead of {expected!r:.200}")


def xattr(path, name):
    try:
        return os.getxattr(path, f"user.win.{name}", follow_symlinks=False)
    except OSError:
        return None


class Original:
    """An entry as it was saved, and as the drive must show it."""

    def __init__(self, path):
        found = os.lstat(path)
        self.is_folder, self.is_link = os.path.isdir(path) and not os.path.islink(path), os.path.islink(path)
        self.is_file = not self.is_folder and not self.is_link
        self.names = found.st_nlink if self.is_file else 1
        self.device_number = found.st_ino
        self.bytes = b""
        if self.is_file and os.path.isfile(path):
            with open(path, "rb") as file:
                self.bytes = file.read()
        self.children = set(os.listdir(path)) if self.is_folder else set()
        self.target = os.readlink(path) if self.is_link else None
        self.streams = {}
        for name in os.listxattr(path, follow_symlinks=False) if not self.is_link else []:
            if name.startswith("user.win.stream."):
                self.streams[name[len("user.win.stream."):]] = os.getxattr(path, name)
        self.written = found.st_mtime_ns // 100 + 116_444_736_000_000_000
        created, recorded = xattr(path, "created"), xattr(path, "attributes")
        self.created = struct.unpack("<Q", created)[0] if created else self.written
        self.tag = SYMLINK if self.is_link else 0
        attributes = 0
        if recorded:
            attributes = struct.unpack("<I", recorded)[0] & SHOWN
        elif self.is_file and found.st_mode & 0o222 == 0:
            attributes = 0x1
        if self.is_folder or self.is_link and os.path.isdir(path):
            attributes |= 0x10
        attributes |= 0x400 if self.is_link else 0
        self.attributes = attributes or 0x80

    def check(self, info, what):
        same((info.attributes, info.tag), (self.attributes, self.tag), what)
        same(info.size, len(self.bytes), what)
        same(info.allocation, -(-len(self.bytes) // PAGE) * PAGE, what)
        same((info.written, info.created), (self.written, self.created), what)


def originals(top):
    """Every entry below a folder, itself too, by its path in bytes."""
    top = os.fsencode(top)
    found = {b"": Original(top)}
    for place, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(place, name)
            found[os.path.relpath(path, top)] = Original(path)
    return found


class Program:
    """Works on one thread of the driver, on the tree that lies at `top`."""

    def __init__(self, thread, top, tree, seed):
        self.thread, self.top, self.tree = thread, top, tree
        self.random = random.Random(seed)
        self.numbers = {}

    def open(self, path, access, options, disposition=OPEN):
        return self.thread.open(path, options | SYNCHRONOUS, access, disposition)

    def refused(self, status, path, access, options=0, disposition=OPEN):
        got = self.thread.status_of(
            drive.OPEN, options=options | SYNCHRONOUS | disposition << 24, access=access, text=wide(path))
        same(hex(got), hex(status), (path, hex(access), hex(options), disposition))

    def check(self, key, info, what):
        """Also that an entry has the same number wherever it is met, and no other has it."""
        self.tree[key].check(info, what)
        original = self.tree[key]
        entry = original.device_number if original.names > 1 else key
        same(self.numbers.setdefault(info.number, entry), entry, what)

    def volume(self, options=0):
        with self.open("\\", ATTRIBUTES, options) as root:
            same(root.granted, ATTRIBUTES, "rights")
            data = self.thread.done(drive.VOLUME)[4]
        total, free, length = struct.unpack_from("<QQH", data)
        same(free, 0, "free bytes")
        same(data[18:18 + length].decode("utf-16-le")[:5] != "", True, "label")
        return total

    def folders(self, access, options, room, start=""):
        """Lists every folder, those above first: its handle, path, key, and what is in it."""
        left = [(f"{self.top}\\{start}" if start else self.top, start.encode())]
        while left:
            path, key = left.pop()
            with self.open(path, access, drive.DIRECTORY_FILE | options) as handle:
                same(handle.name, path, "name")
                same(handle.granted, access, path)
                self.check(key, handle.info, path)
                entries = self.entries(handle, path, key, room)
                yield handle, path, key, entries
            left += [entry[:2] for entry in entries if self.tree[entry[1]].is_folder]

    def entries(self, handle, path, key, room):
        """Path, key and attributes of each."""
        listed = list(handle.list(room))
        same([name for name, _ in listed[:2]], [".", ".."], path)
        self.check(key, listed[0][1], path)
        names = {meaning(name): (name, info) for name, info in listed[2:]}
        same(len(names), len(listed) - 2, path)
        same(set(names), self.tree[key].children, path)
        found = []
        for meant, (name, info) in names.items():
            below = os.path.join(key, meant)
            self.check(below, info, f"{path}\\{name}")
            found.append((f"{path}\\{name}", below, info))
        return found

    def open_all(self, entries):
        """Opens each, compares it, and reads the beginning."""
        options = SYNCHRONOUS | drive.OPEN_LINK | OPEN << 24
        opened = self.thread.ask_all([
            {"what": drive.OPEN, "options": options, "access": drive.GENERIC_READ, "text": wide(path)}
            for path, *_ in entries])
        contexts = []
        for (path, key, listed), (status, granted, context, info, _, name) in zip(entries, opened):
            same((status, granted, name), (drive.SUCCESS, drive.GENERIC_READ, wide(path)), path)
            self.check(key, info, path)
            same(info.number, listed.number, path)
            contexts.append(context)
        read = self.thread.ask_all([
            {"what": drive.READ, "context": context, "length": PAGE} for context in contexts])
        for (path, key, _), (status, *_, data, _) in zip(entries, read):
            if self.tree[key].is_file:
                same((status in (drive.SUCCESS, drive.END_OF_FILE), data), (True, self.tree[key].bytes[:PAGE]), path)
        for status, *_ in self.thread.ask_all([
                {"what": drive.CLOSE, "context": context} for context in contexts]):
            same(status, drive.SUCCESS, "closing")

    def ask_attributes(self, path, key):
        """As GetFileAttributes does, and whoever wants to know more."""
        with self.open(path, drive.READ_ATTRIBUTES, drive.OPEN_LINK) as handle:
            same(handle.granted, drive.READ_ATTRIBUTES, path)
            self.check(key, handle.info, path)
            self.check(key, handle.asked_info(), path)

    def ask_security(self, path, options):
        with self.open(path, drive.READ_CONTROL | ATTRIBUTES, drive.OPEN_LINK | options) as handle:
            descriptor = handle.security()
        control, owner = struct.unpack_from("<HI", descriptor, 2)
        same((control, owner), (0x9004, 20), path)

    def ask_streams(self, handle, key, path):
        own = {} if not self.tree[key].is_file else {"": len(self.tree[key].bytes)}
        expected = {**own, **{name: len(data) for name, data in self.tree[key].streams.items()}}
        same(handle.streams(), expected, path)

    def read_streams(self, path, key, options):
        for name, expected in self.tree[key].streams.items():
            with self.open(f"{path}:{name}", drive.GENERIC_READ, drive.NON_DIRECTORY_FILE | options) as stream:
                same((stream.info.size, stream.info.attributes & 0x10), (len(expected), 0), path)
                same(stream.content(READ_AHEAD), expected, f"{path}:{name}")

    def read(self, handle, key, path, step):
        """Whole pages, as the kernel's cache asks for them, so past the end, too."""
        expected, parts = self.tree[key].bytes, []
        for offset in range(0, len(expected), step):
            parts.append(handle.read(offset, step))
        same(b"".join(parts) == expected, True, path)
        same(handle.read(-(-len(expected) // PAGE) * PAGE, step), b"", path)


def explorer(program):
    """A folder is opened in Explorer, and then each below it."""
    program.volume()
    for handle, path, key, entries in program.folders(LIST, BACKUP_INTENT, 65536):
        # It is shown anew: the same once more.
        program.entries(handle, path, key, 65536)
        program.refused(drive.NOT_FOUND, f"{path}\\desktop.ini", drive.GENERIC_READ, drive.NON_DIRECTORY_FILE)
        program.refused(drive.NOT_FOUND, f"{path}\\Thumbs.db:encryptable", drive.GENERIC_READ)
        for below, inner, _ in entries:
            original = program.tree[inner]
            program.ask_attributes(below, inner)
            program.ask_security(below, BACKUP_INTENT)
            if original.is_file:
                with program.open(below, drive.GENERIC_READ, drive.NON_DIRECTORY_FILE) as file:
                    program.ask_streams(file, inner, below)
                    # Its icon, and what kind of file it is.
                    same(file.read(0, PAGE), original.bytes[:PAGE], below)
                    last = max(len(original.bytes) - 1, 0) // PAGE * PAGE
                    same(file.read(last, PAGE), original.bytes[last:], below)
        if key == b"":
            with program.open(path, drive.MAXIMUM, drive.DIRECTORY_FILE) as folder:
                same(folder.granted & 0x1200A9, 0x1200A9, path)


def dir_s(program):
    """`dir /s`: nothing but listings, and the free space at the end."""
    program.volume()
    count = sum(len(entries) for *_, entries in program.folders(LIST, BACKUP_INTENT, 4096))
    same(count, len(program.tree) - 1, "entries")
    program.volume(FREE_SPACE)


def copy(program):
    """`copy` of each file, as CopyFile does it, streams too."""
    for _, path, key, entries in program.folders(LIST, BACKUP_INTENT, 4096):
        for below, inner, _ in entries:
            if not program.tree[inner].is_file:
                continue
            program.ask_attributes(below, inner)
            options = drive.NON_DIRECTORY_FILE | SEQUENTIAL
            with program.open(below, drive.GENERIC_READ, options) as file:
                same(file.granted, drive.GENERIC_READ, below)
                program.check(inner, file.asked_info(), below)
                program.ask_streams(file, inner, below)
                program.read(file, inner, below, 1 << 20)
                program.read_streams(below, inner, SEQUENTIAL)
            # A folder is no file, and the other way round.
            program.refused(drive.NOT_A_DIRECTORY, below, LIST, drive.DIRECTORY_FILE)
        program.refused(drive.IS_A_DIRECTORY, path, drive.GENERIC_READ, drive.NON_DIRECTORY_FILE)


def robocopy(program):
    """`robocopy /mir /copyall /b` out of the drive."""
    reads = drive.GENERIC_READ | drive.READ_CONTROL
    for handle, path, key, entries in program.folders(reads, BACKUP_INTENT, 65536):
        program.check(key, handle.asked_info(), path)
        handle.security()
        program.ask_streams(handle, key, path)
        program.read_streams(path, key, BACKUP_INTENT)
        for below, inner, _ in entries:
            original = program.tree[inner]
            if original.is_link:
                with program.open(below, ATTRIBUTES, drive.OPEN_LINK | BACKUP_INTENT) as link:
                    data = program.thread.done(drive.LINK, link.context, text=wide(below))[4]
                    target = os.fsdecode(original.target).replace("/", "\\")
                    same(data[20:].decode("utf-16-le"), target * 2, below)
            if original.is_file:
                options = drive.NON_DIRECTORY_FILE | SEQUENTIAL | BACKUP_INTENT
                with program.open(below, reads, options | drive.OPEN_LINK) as file:
                    program.check(inner, file.asked_info(), below)
                    file.security()
                    program.ask_streams(file, inner, below)
                    program.read(file, inner, below, READ_AHEAD)
                    program.read_streams(below, inner, BACKUP_INTENT)


def random_reader(program):
    """Several files are open, and parts of them are read, in no order."""
    files = [key for key, original in program.tree.items() if original.is_file]
    files.sort(key=lambda key: -len(program.tree[key].bytes))
    paths = {}
    for _, _, _, entries in program.folders(LIST, BACKUP_INTENT, 700):
        paths.update({inner: below for below, inner, _ in entries})
    chosen = files[:4] + program.random.sample(files, 4)
    handles = [program.open(paths[key], drive.GENERIC_READ, drive.NON_DIRECTORY_FILE | RANDOM)
               for key in chosen]
    for _ in range(400):
        number = program.random.randrange(len(chosen))
        handle, expected = handles[number], program.tree[chosen[number]].bytes
        # A page mostly; sometimes bytes that nobody has aligned.
        length = program.random.choice([PAGE, PAGE, 4 * PAGE, READ_AHEAD, 1, 5000, 1 << 20])
        offset = program.random.randrange(len(expected) + 3 * PAGE)
        if length % PAGE == 0:
            offset = offset // PAGE * PAGE
        same(handle.read(offset, length) == expected[offset:offset + length], True, (paths[chosen[number]], offset))
    for handle in handles:
        for offset in (1 << 40, (1 << 63) - PAGE, (1 << 64) - 1):
            same(handle.read(offset, READ_AHEAD), b"", "far beyond the end")
        handle.__exit__()


def writer(program):
    """Whatever changes something is refused as on a medium that is write-protected."""
    refused, folder_options = drive.READ_ONLY, drive.DIRECTORY_FILE | BACKUP_INTENT
    listed = [entry for *_, entries in program.folders(LIST, BACKUP_INTENT, 4096) for entry in entries]
    file = next(below for below, key, _ in listed if program.tree[key].is_file and program.tree[key].names == 1)
    folder, name = program.top, f"new {program.random.randrange(1 << 30)}.txt"
    new = f"{folder}\\{name}"
    for path in (new, f"{file}:stream"):
        for disposition in (SUPERSEDE, CREATE, OPEN_IF, OVERWRITE_IF):
            program.refused(refused, path, GENERIC_WRITE, drive.NON_DIRECTORY_FILE, disposition)
    program.refused(refused, new, LIST, folder_options, CREATE)
    program.refused(drive.NOT_FOUND, new, GENERIC_WRITE, drive.NON_DIRECTORY_FILE)
    for path, options in ((file, drive.NON_DIRECTORY_FILE), (folder, folder_options)):
        # To write, to delete, and to change rights, the owner, times or attributes.
        for access in (GENERIC_WRITE, 0x2 | drive.SYNCHRONIZE, 0x4, DELETE | drive.READ_ATTRIBUTES,
                       WRITE_DAC | drive.READ_CONTROL, WRITE_OWNER, 0x100 | drive.SYNCHRONIZE, 0x10):
            program.refused(refused, path, access, options)
        program.refused(refused, path, DELETE, options | drive.DELETE_ON_CLOSE)
    for disposition in (OPEN_IF, OVERWRITE_IF):
        program.refused(refused, file, GENERIC_WRITE | DELETE, drive.NON_DIRECTORY_FILE, disposition)
    with program.open(file, drive.MAXIMUM, drive.NON_DIRECTORY_FILE) as handle:
        ask = program.thread.status_of
        same(ask(drive.WRITE, handle.context, length=1), refused, "writing")
        for kind in (4, 10, 13, 19, 20):
            same(ask(drive.SET, handle.context, options=kind, text=wide(new)), refused, kind)
        same(ask(drive.SET_SECURITY, handle.context, text=handle.security()), refused, "rights")
        same(ask(drive.FLUSH, handle.context), drive.SUCCESS, "flushing")
    same(program.thread.status_of(drive.SET_LABEL, text=wide("mine")), refused, "label")
    program.refused(drive.NOT_FOUND, new, ATTRIBUTES)


ALL = [explorer, dir_s, copy, robocopy, random_reader, writer]


def at_once(works):
    """Each on a thread of its own."""
    failures = []

    def one(work):
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one, args=[work]) for work in works]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if failures:
        raise failures[0]


def work(program, port, top, tree, seed):
    with Thread(port) as thread:
        try:
            program(Program(thread, top, tree, seed))
        except (Status, ConnectionError) as failure:
            raise AssertionError(f"{program.__name__}: {failure}") from failure
