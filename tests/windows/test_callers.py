"""Programs at work on a drive (callers.py), and every entry of a large tree."""

import os
import random
import struct
from functools import partial

import callers
import drive
from drive import Thread
from mounted import Mounted


class Callers(Mounted):
    def test_programs_that_work_at_once_find_what_was_saved(self):
        rng = random.Random(8)

        def make(top):
            for number in range(4):
                folder = top / f"Folder {number}" / "inner ä"
                (folder / "many").mkdir(parents=True)
                for small in range(150):
                    (folder / "many" / f"small {small}").write_bytes(rng.randbytes(rng.choice([0, 1, 9000])))
                (folder.parent / "README").write_bytes(b"upper")
                (folder.parent / "readme").write_bytes(b"lower")
                (folder / "a:b?").write_bytes(rng.randbytes(4096))
                (folder / "large 😀.bin").write_bytes(rng.randbytes(3_000_001))
                (folder / "empty folder").mkdir()
                os.link(folder / "a:b?", folder / "the same")
                os.symlink("../README", folder / "link")
                os.symlink("many", folder / "link to a folder")
                os.symlink(top, folder / "link down to a folder")
                os.symlink("/nothing", folder / "away")
                os.mkfifo(folder / "fifo")
                (folder / "read-only").touch(0o444)
                for streams in (folder / "large 😀.bin", folder):
                    os.setxattr(streams, "user.win.stream.Zone.Identifier", b"zone 3")
                    os.setxattr(streams, "user.win.stream.more", rng.randbytes(2000))
                os.setxattr(folder / "large 😀.bin", "user.win.attributes", struct.pack("<I", 0x822))
                os.setxattr(folder / "large 😀.bin", "user.win.created", struct.pack("<Q", 1 << 56))

        source, path = self.saved(make)
        tree = callers.originals(source)
        self.mount("latest", "R:")
        works = [partial(callers.work, program, self.port, path, tree, seed)
                 for seed in (1, 2) for program in callers.ALL]
        with Thread(self.port) as thread:
            # The first time threads and whatever else there is once are made.
            callers.at_once(works)
            before = self.handles(thread)
            callers.at_once(works)
            self.assertLessEqual(self.handles(thread), before)
            self.assertEqual(self.inodes(thread), 2)
        self.unmount()

    def test_each_of_a_hundred_thousand_entries_in_many_folders(self):
        def make(top):
            for one in range(8):
                for two in range(10):
                    folder = top / f"Folder {one}" / f"and {two}"
                    folder.mkdir(parents=True)
                    for three in range(12):
                        inner = folder / f"deeper {three}"
                        inner.mkdir()
                        for number in range(104):
                            with open(inner / f"Entry {number:03}.txt", "wb") as file:
                                file.write(b"x" * (number % 7))

        source, path = self.saved(make)
        tree = callers.originals(source)
        self.assertGreater(len(tree), 100_000)
        self.mount("latest", "R:")

        def walk(number):
            """A folder at the top, and each below it, and all that is in them."""
            with Thread(self.port) as thread:
                program = callers.Program(thread, path, tree, number)
                seen, room = 1, (4096, 16384, 65536)[number % 3]
                for _, _, _, entries in program.folders(
                        callers.LIST, callers.BACKUP_INTENT, room, f"Folder {number}"):
                    # What many threads of the kernel would ask, one after another.
                    for start in range(0, len(entries), 64):
                        program.open_all(entries[start:start + 64])
                    seen += len(entries)
                met.append(seen)

        met = []
        with Thread(self.port) as thread:
            before = self.handles(thread)
            callers.at_once([partial(walk, number) for number in range(8)])
            self.assertEqual(sum(met), len(tree) - 1)
            # A few more threads of the program may have been made; nothing is left of an entry.
            self.assertLess(self.handles(thread), before + 50)
            self.assertEqual(self.inodes(thread), 2)
        self.unmount()
