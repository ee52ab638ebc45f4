"""The drive on Windows: what its kernel asks for, through WinFsp's own DLL."""

import hashlib
import os
import random
import socket
import struct
import threading

import drive
from drive import Status, Thread, wide
from mounted import Mounted, meaning
from programs import contents


class Drive(Mounted):
    def test_everything_is_read_as_it_was_saved_from_many_threads(self):
        rng = random.Random(3)

        def make(top):
            for number in range(6):
                folder = top / f"Folder {number}" / "inner"
                folder.mkdir(parents=True)
                (folder.parent / "README").write_bytes(b"upper")
                (folder.parent / "readme").write_bytes(b"lower")
                (folder / "con").write_bytes(b"a device elsewhere")
                (folder / "a:b?").write_bytes(rng.randbytes(1000))
                (folder / "ä ☃ 😀.bin").write_bytes(rng.randbytes(700_000))
                (folder / "empty").touch()
                os.symlink("../README", folder / "link")

        source, path = self.saved(make)
        self.mount("latest", "R:")
        expected = contents(source)
        failures = []

        def one(number):
            try:
                with Thread(self.port) as thread:
                    # As small as a name allows, as `dir` does it, and as Explorer does it.
                    found = self.walk(thread, path, (700, 4096, 65536)[number % 3])
                for name in [n for n in found if n.endswith("\\link")]:
                    del found[name]
                meant = {meaning(name): data for name, data in found.items()}
                self.assertEqual(meant, expected)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=one, args=[n]) for n in range(6)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual(failures, [])
        with Thread(self.port) as thread:
            # Root, and the file that tells it.
            self.assertEqual(self.inodes(thread), 2)
        self.unmount()

    def test_a_hundred_thousand_entries_and_a_long_file(self):
        count, block = 100_000, random.Random(5).randbytes(1 << 20)
        size = 1 << 30

        def make(top):
            (top / "many").mkdir()
            for number in range(count):
                os.close(os.open(top / "many" / f"Entry {number:06}", os.O_CREAT))
            with open(top / "long", "wb") as file:
                for number in range(size >> 20):
                    file.write(struct.pack("<Q", number) + block[8:])

        source, path = self.saved(make)
        with open(source / "long", "rb") as file:
            expected = hashlib.file_digest(file, "blake2b").digest()
        self.mount("latest", "R:")
        with Thread(self.port) as thread:
            before = self.handles(thread)
            with thread.open(f"{path}\\many") as handle:
                names = [name for name, _ in handle.list(65536)]
                self.assertEqual(names[2:], [f"Entry {n:06}" for n in range(count)])
                # It goes on anywhere, and starts anew.
                after = handle.list(4096, wide("entry 050000"))
                self.assertEqual(next(after)[0], "Entry 050001")
            with thread.open(f"{path}\\MANY\\ENTRY 099999") as handle:
                self.assertEqual(handle.name, f"{path}\\many\\Entry 099999")
            digest = hashlib.blake2b()
            with thread.open(f"{path}\\long") as handle:
                self.assertEqual(handle.info.size, size)
                for offset in range(0, size, 1 << 20):
                    digest.update(handle.read(offset, 1 << 20))
            self.assertEqual(digest.digest(), expected)
            self.assertEqual(self.inodes(thread), 2)
            # Packs may be kept open, and threads are made; nothing is left of each of a thousand reads.
            self.assertLess(self.handles(thread), before + 100)
        self.unmount()

    def test_nothing_can_be_changed(self):
        _, path = self.saved(lambda top: (top / "file").write_bytes(b"x"))
        self.mount("latest", "R:")
        file, new = f"{path}\\file", f"{path}\\new"
        with Thread(self.port) as thread:
            for name, options, access, disposition in [
                (file, 0, 0x2, 1), (file, 0, 0x4, 1), (file, 0, 0x10000, 1),
                (file, 0, 0x40000, 1), (file, 0, 0x80000, 1), (file, 0, 0x100, 1),
                (file, drive.DELETE_ON_CLOSE, 0x10001, 1),
                (new, 0, 0x1, 2), (new, 0, 0x1, 3), (new, 0x1, 0x1, 2), (new, 0, 0x2, 5),
            ]:
                status = thread.status_of(drive.OPEN, options=options | disposition << 24,
                                          access=access, text=wide(name))
                self.assertEqual(status, drive.READ_ONLY, (name, options, access, disposition))
            # Who asks for all that there is can read.
            with thread.open(file, access=drive.MAXIMUM) as handle:
                self.assertEqual(handle.content(), b"x")
                context = handle.context
                status = thread.status_of(drive.WRITE, context, length=1)
                self.assertEqual(status, drive.READ_ONLY)
                for kind in (4, 13, 19, 20):
                    status = thread.status_of(drive.SET, context, options=kind)
                    self.assertEqual(status, drive.READ_ONLY, kind)
                status = thread.status_of(drive.SET, context, options=10, text=wide(new))
                self.assertEqual(status, drive.READ_ONLY)
                self.assertEqual(thread.status_of(drive.FLUSH, context), drive.SUCCESS)
                descriptor = thread.done(drive.SECURITY, context)[4]
                status = thread.status_of(drive.SET_SECURITY, context, text=descriptor)
                self.assertEqual(status, drive.READ_ONLY)
            # To overwrite is the second half of opening: WinFsp closes what can't be.
            context = thread.open(file).context
            self.assertEqual(thread.status_of(drive.OVERWRITE, context), drive.READ_ONLY)
            status = thread.status_of(drive.SET_LABEL, text=wide("mine"))
            self.assertEqual(status, drive.READ_ONLY)
            self.assertEqual(self.inodes(thread), 2)
        self.unmount()

    def test_volume_attributes_streams_links_and_ends(self):
        def make(top):
            (top / "file").write_bytes(b"0123456789")
            os.utime(top / "file", ns=(1_000_000_000, 2_000_000_000))
            os.setxattr(top / "file", "user.win.stream.Zone.Identifier", b"zone 3")
            os.setxattr(top / "file", "user.win.attributes", struct.pack("<I", 0x22))
            os.setxattr(top / "file", "user.win.created", struct.pack("<Q", 123))
            (top / "folder").mkdir()
            os.symlink("folder", top / "link")

        _, path = self.saved(make)
        self.mount("R:")
        with Thread(self.port) as thread:
            flags = struct.unpack_from("<I", thread.done(drive.PARAMETERS)[4], 36)[0]
            # Names keep their case, which doesn't count; streams; read-only.
            self.assertEqual(flags & 0x257, 0x256)
            volume = thread.done(drive.VOLUME)[4]
            total, free, length = struct.unpack_from("<QQH", volume)
            self.assertEqual((total, free), (10, 0))
            self.assertTrue(volume[18:18 + length].decode("utf-16-le").startswith("tresor"))
            with thread.open("\\") as handle:
                self.assertEqual([name for name, _ in handle.list()],
                                 ["hosts", "ids", "snapshots", "tags"])
            top = f"\\@latest{path}"
            with thread.open(f"{top}\\FILE") as handle:
                info = handle.info
                self.assertEqual((info.attributes, info.created, info.size), (0x22, 123, 10))
                self.assertEqual(info.written, 116_444_736_020_000_000)
                self.assertEqual(info.accessed, 116_444_736_010_000_000)
                self.assertEqual(info.allocation, 4096)
                self.assertEqual(handle.streams(), {"": 10, "Zone.Identifier": 6})
                self.assertEqual(handle.read(8, 100), b"89")
                for offset in (10, 11, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
                    self.assertEqual(handle.read(offset, 100), b"")
                self.assertEqual(handle.read(0, 32 << 20), b"0123456789")
                self.assertEqual(handle.read(3, 0), b"")
            with thread.open(f"{top}\\file:zone.IDENTIFIER") as handle:
                self.assertEqual(handle.content(), b"zone 3")
                self.assertEqual(handle.read(6, 1), b"")
            with thread.open(f"{top}\\link") as handle:
                self.assertEqual((handle.info.attributes, handle.info.tag), (0x410, 0xA000000C))
                link = thread.done(drive.LINK, handle.context, text=wide(f"{top}\\link"))[4]
                self.assertEqual(link[20:].decode("utf-16-le"), "folderfolder")
            for name, options, status in [
                ("none", 0, drive.NOT_FOUND), ("file\\x", 0, 0xC000003A),
                ("file:none", 0, drive.NOT_FOUND), ("file", 0x1, drive.NOT_A_DIRECTORY),
                ("folder", 0x40, drive.IS_A_DIRECTORY), ("link\\x", 0, drive.REPARSE),
            ]:
                got = thread.status_of(drive.OPEN, options=options | 1 << 24, access=drive.TO_READ,
                                       text=wide(f"{top}\\{name}"))
                self.assertIn(got, (status, drive.NOT_A_DIRECTORY), (name, hex(got)))
            for text in (b"", wide("x"), wide("\\"), wide("\\" * 900), wide("\\\ud800"),
                         wide("\\" + "a" * 1000), wide("\\:"), wide("\\::$DATA"), b"\\\0\0\0"):
                status, _, context, *_ = thread.ask(
                    drive.OPEN, options=drive.OPEN_LINK | 1 << 24, access=drive.TO_READ, text=text)
                if status == drive.SUCCESS:
                    thread.done(drive.CLOSE, context)
            with thread.open(top) as handle:
                for room in (0, 1, 103, 104, 120):
                    status = thread.status_of(drive.LIST, handle.context, length=room)
                    self.assertIn(status, (drive.SUCCESS, 0xC0000023), room)
                for marker in (wide("\ud800"), wide("zzz"), wide("a" * 500), b"\0\0"):
                    thread.done(drive.LIST, handle.context, length=4096, text=marker)
            self.assertEqual(self.inodes(thread), 2)
        out, _ = self.unmount()
        self.assertIn("The drive is at R:", out)

    def test_streams_are_files_whatever_they_are_of_and_links_are_links(self):
        self.linux("init")
        self.run_line([os.environ["TRESOR_WINDOWS_TREE"], self.repo], (0,))
        long = bytes(number * 31 // 7 & 0xFF for number in range(200_000))
        self.mount("latest", "R:")
        with Thread(self.port) as thread:
            for name, streams in [("file", {"": 4}), ("folder", {}), ("link", {})]:
                with thread.open(f"\\{name}") as handle:
                    streams = {**streams, "short": 5, "Long": len(long)}
                    self.assertEqual(handle.streams(), streams)
                # A program that knows of links, and one that doesn't.
                for options in (drive.NON_DIRECTORY_FILE | drive.OPEN_LINK, drive.NON_DIRECTORY_FILE):
                    for stream, expected in [("short", b"short"), ("LONG", long), ("long:$DATA", long)]:
                        path = f"\\{name}:{stream}"
                        with thread.open(path, options, drive.GENERIC_READ) as handle:
                            self.assertEqual(handle.content(65536), expected, path)
                            self.assertEqual(handle.read(len(expected) - 1, 9), expected[-1:])
                            for info in (handle.info, handle.asked_info()):
                                self.assertEqual((info.attributes, info.tag), (0x80, 0), path)
                                self.assertEqual(info.size, len(expected))
                                self.assertEqual(info.allocation, -(-len(expected) // 4096) * 4096)
                            self.assertEqual(handle.streams(), streams)
                status = thread.status_of(drive.OPEN, options=drive.DIRECTORY_FILE | 1 << 24,
                                          access=drive.TO_READ, text=wide(f"\\{name}:short"))
                self.assertEqual(status, drive.NOT_A_DIRECTORY, name)
            for name, attributes, tag, target, leads_to in [
                ("link", 0x410, 0xA000000C, "folder" * 2, "\\folder"),
                ("down to a file", 0x400, 0xA000000C, "\\folder\\inside" * 2, "\\folder\\inside"),
                ("down to a folder", 0x410, 0xA000000C, "\\folder" * 2, "\\folder"),
                ("down to nothing", 0x400, 0xA000000C, "\\there" * 2, "\\there"),
                ("junction", 0x410, 0xA0000003, "\\??\\C:\\there\0C:\\there\0", None),
            ]:
                with thread.open(f"\\{name}") as handle:
                    self.assertEqual((handle.info.attributes, handle.info.tag), (attributes, tag), name)
                    link = thread.done(drive.LINK, handle.context, text=wide(f"\\{name}"))[4]
                head = 20 if tag == 0xA000000C else 16
                self.assertEqual(link[head:].decode("utf-16-le"), target)
                # Who doesn't know of links is sent on by the kernel: to a place on the drive,
                # which WinFsp finds out, or elsewhere.
                answer = thread.ask(drive.OPEN, options=1 << 24, access=drive.TO_READ,
                                    text=wide(f"\\{name}"))
                self.assertEqual(answer[0], drive.REPARSE, name)
                self.assertEqual(answer[4][20:] if leads_to else answer[4],
                                 wide(leads_to) if leads_to else link, name)
            self.assertEqual(self.inodes(thread), 2)
        self.unmount()

    def test_recorded_rights_count_if_others_are_let_in(self):
        # S-1-1-0 and a user who isn't there.
        everybody = bytes([1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
        nobody = bytes([1, 2, 0, 0, 0, 0, 0, 5]) + struct.pack("<II", 21, 999)
        whole = descriptor(everybody, [(everybody, 0x1F01FF)])
        recorded = {
            "open": whole,
            "closed": descriptor(nobody, [(nobody, 0x1F01FF)]),
            "only attributes": descriptor(nobody, [(everybody, 0x20080), (nobody, 0x1F01FF)]),
            # More than WinFsp has room for when it looks whether somebody may.
            "long": descriptor(nobody, [(nobody, 0x1F01FF)] * 60),
            "damaged": whole[:-1],
            "folder": descriptor(everybody, [(everybody, 0x1200A9)]),
        }

        def make(top):
            (top / "folder").mkdir()
            for name in (*recorded, "none"):
                if name != "folder":
                    (top / name).write_bytes(b"x")
            for name, value in recorded.items():
                os.setxattr(top / name, "user.win.security", value)

        _, path = self.saved(make)
        opened = {"open": True, "closed": False, "only attributes": False, "long": True,
                  "damaged": True, "folder": True, "none": True}
        for options in ([], ["--allow-other"]):
            self.mount(*options, "R:")
            with Thread(self.port) as thread:
                with thread.open("\\") as root, thread.open("\\snapshots") as folder:
                    own, of_folder = root.security(), folder.security()
                self.assertEqual(own, of_folder)
                owner, allowed = rights(own)
                self.assertEqual(everybody in allowed, bool(options))
                # The user, the system, administrators.
                for number in (owner, bytes([1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]),
                               bytes([1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0])):
                    self.assertEqual(allowed.pop(number), 0x1F01FF)
                self.assertEqual(allowed, {everybody: 0x1200A9} if options else {})
                for name, is_opened in opened.items():
                    file = f"\\@latest{path}\\{name}"
                    status, granted, context, *_ = thread.ask(
                        drive.OPEN, options=1 << 24, access=drive.GENERIC_READ, text=wide(file))
                    is_opened = is_opened or not options
                    self.assertEqual(status, drive.SUCCESS if is_opened else drive.ACCESS_DENIED, name)
                    if is_opened:
                        self.assertEqual(granted, drive.GENERIC_READ)
                        shown = thread.done(drive.SECURITY, context)[4]
                        thread.done(drive.CLOSE, context)
                        if options and name not in ("damaged", "none"):
                            self.assertEqual(shown, recorded[name], name)
                        else:
                            self.assertEqual(rights(shown)[0], owner, name)
                            self.assertEqual(everybody in rights(shown)[1], False, name)
                file = f"\\@latest{path}\\only attributes"
                with thread.open(file, access=drive.READ_ATTRIBUTES | drive.READ_CONTROL) as handle:
                    is_recorded = handle.security() == recorded["only attributes"]
                    self.assertEqual(is_recorded, bool(options))
                self.assertEqual(self.inodes(thread), 2)
            self.unmount()

    def test_a_damaged_block_is_an_error_and_nothing_else_is(self):
        rng = random.Random(9)

        def make(top):
            (top / "bad").write_bytes(rng.randbytes(3_000_000))
            (top / "good").write_bytes(b"good")

        _, path = self.saved(make)
        self.mount("latest", "R:")
        with Thread(self.port) as thread, thread.open(f"{path}\\bad") as handle:
            for pack in (self.repo / "packs").glob("*/*"):
                if pack.stat().st_size > 1_000_000:
                    pack.chmod(0o600)
                    with open(pack, "r+b") as file:
                        file.seek(pack.stat().st_size // 2)
                        file.write(bytes(64))
            failed = 0
            for offset in range(0, 3_000_000, 65536):
                try:
                    handle.read(offset, 65536)
                except Status as status:
                    self.assertEqual(status.status, 0xC000009C)
                    failed += 1
            self.assertGreater(failed, 0)
            with thread.open(f"{path}\\good") as good:
                self.assertEqual(good.content(), b"good")
        _, errors = self.unmount()
        self.assertIn("bad: ", errors)

    def test_what_cannot_be_mounted_is_explained(self):
        self.windows("umount", "R:", codes=(1,))
        self.saved(lambda top: (top / "file").touch())
        done = self.windows("mount", "latest", "C:", codes=(1,))
        self.assertIn(b"the letter C: is taken", done.stderr)
        file = self.here / "source" / "file"
        for point in (self.here, self.here / "source", file):
            done = self.windows("mount", "latest", point, codes=(1,))
            self.assertIn(b"is no empty folder", done.stderr)
        self.mount("latest", "*")
        self.unmount("Y:")

    def test_a_folder_is_where_the_drive_is_as_long_as_that_is_there(self):
        self.saved(lambda top: (top / "file").touch())
        empty, new = self.here / "Empty", self.here / "New"
        empty.mkdir()
        for point, is_kept in [(empty, True), (new, False)]:
            self.mount("latest", point)
            with Thread(self.port) as thread:
                where = thread.done(drive.MOUNT_POINT)[4].decode("utf-16-le")
                self.assertEqual(where, self.windows_path(point))
            # The test's driver makes it, as WinFsp does, and like that it must not be there before.
            self.assertTrue(point.is_dir())
            self.unmount(point)
            self.assertEqual(point.is_dir(), is_kept)
        # What is taken away for a drive that then can't be is put back.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.env["TRESOR_TEST_DRIVER"] = str(taken.getsockname()[1])
            self.windows("mount", "latest", empty, codes=(1,))
            self.windows("mount", "latest", new, codes=(1,))
        del self.env["TRESOR_TEST_DRIVER"]
        self.assertTrue(empty.is_dir())
        self.assertFalse(new.is_dir())

    def test_a_prompt_of_an_administrator_gives_a_letter_that_everybody_sees(self):
        """Wine's users are administrators who have another token."""
        self.saved(lambda top: (top / "file").touch())
        for has_manager, where in [(True, "\\\\.\\R:"), (False, "R:")]:
            self.env.pop("TRESOR_TEST_NO_MOUNT_MANAGER", None)
            if not has_manager:
                self.env["TRESOR_TEST_NO_MOUNT_MANAGER"] = "1"
            self.mount("latest", "R:")
            with Thread(self.port) as thread:
                self.assertEqual(thread.done(drive.MOUNT_POINT)[4], wide(where))
                # No network drive: the mount manager has none.
                self.assertEqual(thread.done(drive.PARAMETERS)[4][40:42], b"\0\0")
            _, errors = self.unmount()
            self.assertEqual("for programs that run as administrator only" in errors, not has_manager)
        del self.env["TRESOR_TEST_NO_MOUNT_MANAGER"]


def descriptor(owner, entries):
    """A security descriptor of an owner that allows others something."""
    listed = b"".join(struct.pack("<BBHI", 0, 0, 8 + len(sid), allowed) + sid for sid, allowed in entries)
    group = 20 + len(owner)
    head = struct.pack("<BBHIIII", 1, 0, 0x8004, 20, group, 0, group + len(owner))
    return head + owner + owner + struct.pack("<BBHHH", 2, 0, 8 + len(listed), len(entries), 0) + listed


def rights(descriptor):
    """The owner, and what is allowed to whom."""
    owner, at = struct.unpack_from("<I", descriptor, 4)[0], struct.unpack_from("<I", descriptor, 16)[0]
    sid = lambda place: descriptor[place:place + 8 + 4 * descriptor[place + 1]]
    count, place, allowed = struct.unpack_from("<H", descriptor, at + 4)[0], at + 8, {}
    for _ in range(count):
        kind, _, length, mask = struct.unpack_from("<BBHI", descriptor, place)
        assert kind == 0
        allowed[sid(place + 8)] = mask
        place += length
    return sid(owner), allowed
