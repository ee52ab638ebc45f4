"""Alternate streams, sparse files, times of creation: streams.c stands in for what Wine lacks of NTFS."""

import os
import random
import shutil
import stat

from programs import Programs, contents

LONG = random.Random(3).randbytes(1_500_000)


class Streams(Programs):
    def setUp(self):
        super().setUp()
        self.source, self.target = self.here / "source", self.here / "target"
        self.kept = self.here / "streams"
        self.kept.mkdir()
        (self.source / "folder").mkdir(parents=True)
        for name in ("note.txt", "closed.txt"):
            (self.source / name).write_bytes(name.encode())
        self.env = {**self.env, "TRESOR_TEST_STREAMS": self.windows_path(self.kept)}
        for name in ("note.txt", "closed.txt", "folder"):
            self.put(self.source / name, "Zone.Identifier", b"zone 3")
            self.put(self.source / name, "ä long one", LONG)
        (self.source / "closed.txt").chmod(0o444)
        self.windows("init")

    def windows(self, *words, codes=(0,), **settings):
        """Settings are those of the stand-in."""
        env = self.env
        self.env = {**env, **{f"TRESOR_TEST_STREAMS_{name}": value for name, value in settings.items()}}
        try:
            return super().windows(*words, codes=codes)
        finally:
            self.env = env

    def backup(self, codes=(0,), **settings):
        return self.windows("backup", "--use-fs-snapshot=off", self.source, codes=codes, **settings)

    def restore(self, *options, codes=(0,), **settings):
        return self.windows("restore", f"latest:{self.recorded(self.source)}", "--target", self.target,
                            *options, codes=codes, **settings)

    def place(self, path, name):
        return self.kept / f"{path.stat().st_ino:x}+{name}"

    def put(self, path, name, data):
        self.place(path, name).write_bytes(data)
        # A change of a stream is one of its file.
        now = path.stat()
        os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns))

    def of(self, path):
        """The streams of a file or folder, by their names."""
        begin = f"{path.stat().st_ino:x}+"
        return {p.name.removeprefix(begin): p.read_bytes() for p in self.kept.iterdir()
                if p.name.startswith(begin)}

    def assert_restored(self, zone=b"zone 3"):
        self.assertEqual(contents(self.target), contents(self.source))
        for name in ("note.txt", "closed.txt", "folder"):
            self.assertEqual(self.of(self.target / name), {"Zone.Identifier": zone, "ä long one": LONG}, name)
        self.assertEqual(stat.S_IMODE((self.target / "closed.txt").stat().st_mode) & 0o222, 0)
        self.assertNotEqual(stat.S_IMODE((self.target / "note.txt").stat().st_mode) & 0o200, 0)

    def test_they_come_back_and_what_is_right_is_left_alone(self):
        self.backup()
        self.restore("--verify")
        self.assert_restored()
        # In place, also of what is read-only: what is wrong, too much or too little is put right.
        for name in ("note.txt", "closed.txt", "folder"):
            path = self.target / name
            self.place(path, "too much").write_bytes(b"x")
            self.place(path, "Zone.Identifier").write_bytes(b"zone 3, and more")
            self.place(path, "ä long one").unlink()
        self.restore("--overwrite")
        self.assert_restored()
        right = [self.place(self.target / name, "Zone.Identifier") for name in ("note.txt", "closed.txt")]
        for place in right:
            os.utime(place, ns=(0, 0))
        self.restore("--overwrite")
        self.assertEqual([place.stat().st_mtime_ns for place in right], [0, 0])
        self.assert_restored()

    def test_what_can_not_be_listed_is_reported_and_looked_at_again(self):
        done = self.backup(codes=(3,), LIST="fail")
        self.assertIn(b"note.txt: can't read its attributes: list of streams: ", done.stderr)
        self.restore()
        self.assertEqual(self.of(self.target / "note.txt"), {})
        # Nothing has changed, and yet the next one saves them.
        self.backup()
        shutil.rmtree(self.target)
        self.restore()
        self.assert_restored()
        # Where there are none, there is nothing to report.
        self.assertEqual(self.backup(LIST="none").stderr, b"")

    def test_one_that_vanishes_is_no_matter_and_one_that_is_closed_is_reported(self):
        self.backup(GONE="Zone.Identifier")
        shutil.rmtree(self.target, ignore_errors=True)
        self.restore()
        self.assertEqual(contents(self.target), contents(self.source))
        self.assertEqual(self.of(self.target / "note.txt"), {"ä long one": LONG})
        for name in ("note.txt", "closed.txt", "folder"):
            self.put(self.source / name, "Zone.Identifier", b"zone 4")
        done = self.backup(codes=(3,), DENIED="Zone.Identifier")
        self.assertEqual(done.stderr.count(b"attributes: stream Zone.Identifier: "), 3, done.stderr)
        # What could not be saved is not taken away.
        for name in ("note.txt", "closed.txt", "folder"):
            self.place(self.target / name, "Zone.Identifier").write_bytes(b"zone 5")
        self.restore("--overwrite")
        self.assert_restored(zone=b"zone 5")

    def test_rights_that_close_a_file_come_after_its_streams(self):
        self.backup()
        self.restore(CLOSED="1")
        self.assert_restored()

    def test_times_of_creation_come_back(self):
        names = ("note.txt", "closed.txt", "folder")
        place = lambda path: self.kept / f"{path.stat().st_ino:x}.created"
        ticks = {name: (130_000_000_000_000_000 + n).to_bytes(8, "little") for n, name in enumerate(names)}
        for name in names:
            place(self.source / name).write_bytes(ticks[name])
        self.backup()
        self.restore()
        self.assertEqual({name: place(self.target / name).read_bytes() for name in names}, ticks)
        place(self.target / "closed.txt").write_bytes(bytes(8))
        self.restore("--overwrite")
        self.assertEqual({name: place(self.target / name).read_bytes() for name in names}, ticks)

    def is_sparse(self, path):
        return (self.kept / f"{path.stat().st_ino:x}.sparse").exists()

    def test_sparse_files_are_sparse_again_and_others_are_not(self):
        top = self.here / "from linux"
        top.mkdir()
        rng = random.Random(5)
        # More pieces than a list has that lies in the entry.
        with open(top / "many holes", "wb") as file:
            for number in range(400):
                file.seek(number << 17)
                file.write(rng.randbytes(4096))
        with open(top / "a hole at the end", "wb") as file:
            file.write(b"x")
            file.truncate(1 << 20)
        (top / "dense").write_bytes(rng.randbytes(12 << 20))
        self.linux("init", codes=(0, 1))
        self.linux("backup", top)
        self.windows("restore", f"latest:{top}", "--target", self.target)
        self.assertEqual(contents(self.target), contents(top))
        names = ("many holes", "a hole at the end", "dense")
        self.assertEqual([self.is_sparse(self.target / name) for name in names], [True, True, False])
        # One without a hole comes back as it was, and so does one that isn't sparse.
        (self.source / "sparse").write_bytes(rng.randbytes(12 << 20))
        (self.source / "dense").write_bytes(rng.randbytes(12 << 20))
        (self.kept / f"{(self.source / 'sparse').stat().st_ino:x}.sparse").touch()
        self.backup()
        shutil.rmtree(self.target)
        self.restore()
        names = ("sparse", "dense", "note.txt")
        self.assertEqual([self.is_sparse(self.target / name) for name in names], [True, False, False])
        self.assertEqual(contents(self.target), contents(self.source))
