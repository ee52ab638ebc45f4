"""The drive on Windows: what its kernel asks for, through WinFsp's own DLL."""

import hashlib
import json
import os
import random
import struct
import threading

import drive
from drive import Status, Thread, wide
from programs import Programs, contents


class Drive(Programs):
    def mount(self, *words):
        self.port = drive.free_port()
        env = self.env
        self.env = {**env, "TRESOR_TEST_DRIVER": str(self.port)}
        self.served = self.windows("mount", *words, start=True)
        self.env = env
        self.addCleanup(self.end)
        try:
            drive.wait_for(self.port, lambda: self.served.poll() is None)
        except AssertionError:
            self.served.kill()
            self.fail(str(self.served.communicate()))

    def end(self):
        """Whatever went wrong, the next test finds the letter free."""
        if self.served.poll() is None:
            for point in ("R:", "Y:"):
                self.windows("umount", point, codes=(0, 1))
            self.served.kill()
            self.served.communicate()

    def unmount(self, point="R:"):
        self.windows("umount", point)
        out, errors = self.served.communicate(timeout=60)
        self.assertEqual(self.served.returncode, 0, errors)
        return out.decode(), errors.decode()

    def saved(self, make):
        """Makes a folder, saves it from this system, and gives its path on the drive."""
        source = self.here / "source"
        source.mkdir()
        make(source)
        self.linux("init")
        self.linux("backup", source)
        return source, str(source).replace("/", "\\")

    def walk(self, thread, path, room=4096):
        """Every path below, as bytes of the snapshot, with what it holds."""
        found = {}
        with thread.open(path) as handle:
            entries = list(handle.list(room))
        self.assertEqual([name for name, _ in entries[:2]], [".", ".."])
        for name, info in entries[2:]:
            below = f"{path}\\{name}"
            if info.attributes & 0x10:
                found[name] = None
                found.update({f"{name}\\{rest}": data
                              for rest, data in self.walk(thread, below, room).items()})
            else:
                with thread.open(below) as handle:
                    self.assertEqual(handle.name, below)
                    found[name] = handle.content()
                    self.assertEqual(handle.info.size, len(found[name]))
        return found

    def inodes(self, thread):
        with thread.open("\\.tresor-status") as handle:
            return json.loads(handle.content())["inodes"]

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
        done = self.windows("mount", "latest", self.here, codes=(1,))
        self.assertIn(b"exists", done.stderr)
        self.mount("latest", "*")
        self.unmount("Y:")


def meaning(path):
    """A path of Windows as one of the snapshot: private characters stand for bytes."""
    parts = []
    for name in path.split("\\"):
        units = (bytes([ord(c) & 0xFF]) if 0xF001 <= ord(c) <= 0xF0FF else c.encode() for c in name)
        parts.append(b"".join(units))
    return b"/".join(parts)
