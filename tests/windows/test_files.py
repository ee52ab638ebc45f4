"""Backup and restore on Windows, and across systems."""

import os
import random
import signal
import time

from programs import Programs, contents, times

# What Windows can't have, and what looks like what stands for it.
HARD = [b"a:b", b"con", b"NUL.txt", b"end.", b"end ", b'"<>|?*', b"back\\slash", b"\x01\x1f",
        b"\xff\xfe raw", "ä☃😀".encode(), "a\uf03ab".encode(), "\uf041".encode(), b"lpt1.x.y"]


def write(path, data, time=None):
    with open(path, "wb") as file:
        file.write(data)
    if time is not None:
        os.utime(path, ns=(time, time))


class Files(Programs):
    def make_tree(self, top):
        top.mkdir()
        rng = random.Random(7)
        write(top / "empty", b"")
        write(top / "letter.txt", b"Dear all,\r\n", 981173106_789_000_000)
        write(top / "large.bin", rng.randbytes(5_000_000), -1_000_000_000)
        (top / "a folder" / "in a folder").mkdir(parents=True)
        write(top / "a folder" / "ä ☃ 😀.txt", b"names")
        os.link(top / "letter.txt", top / "a folder" / "the same letter.txt")
        write(top / "closed.txt", b"read-only")
        os.chmod(top / "closed.txt", 0o444)
        deep = top
        for number in range(40):
            deep = deep / f"level {number:02} of a long path"
        deep.mkdir(parents=True)
        write(deep / "at the end.txt", b"deep")
        os.utime(top / "a folder", ns=(1_234_567_890_123_456_700,) * 2)
        return top

    def test_backup_restore_and_all_the_rest(self):
        source, target = self.make_tree(self.here / "source"), self.here / "target"
        self.windows("init")
        first = self.windows("backup", source)
        # Wine has no shadow copies, which is said, and nothing else.
        self.assertIn(b"this system has no Volume Shadow Copy Service; files are read", first.stderr)
        self.assertEqual(first.stderr.count(b"\n"), 1)
        self.windows("restore", f"latest:{self.recorded(source)}", "--target", target)
        self.assertEqual(contents(target), contents(source))
        self.assertEqual(times(target), times(source))
        same = (target / "letter.txt").stat().st_ino
        self.assertEqual((target / "a folder" / "the same letter.txt").stat().st_ino, same)
        self.assertEqual((target / "closed.txt").stat().st_mode & 0o222, 0)
        # Nothing has changed, so nothing is read again or written.
        again = self.windows("backup", source)
        self.assertIn(b"0 new, 0 changed, 7 unchanged", again.stdout)
        write(source / "letter.txt", b"Dear Anna,\r\n")
        (source / "empty").unlink()
        changed = self.windows("backup", source)
        self.assertIn(b"2 changed", changed.stdout)
        into = [f"latest:{self.recorded(source)}", "--target", target, "--overwrite", "--delete"]
        self.windows("restore", *into)
        self.assertEqual(contents(target), contents(source))
        self.assertIn(b"letter.txt", self.windows("find", "*.TXT", "-i").stdout)
        listed = self.windows("ls", f"latest:{self.recorded(source)}").stdout
        self.assertIn("/a folder/ä ☃ 😀.txt", listed.decode())
        self.windows("check", "--read-data")
        self.windows("forget", "--keep-last", "1")
        self.windows("prune", "--grace", "0")
        self.windows("check", "--read-data")
        self.assertIn(b"1 snapshot", self.windows("snapshots").stdout)
        # What was made here opens there, down to the last byte.
        self.linux("check", "--read-data")
        out = self.here / "out"
        self.linux("restore", f"latest:{self.recorded(source)}", "--target", out)
        self.assertEqual(contents(out), contents(source))
        self.assertEqual(times(out), times(source))

    def test_attributes_and_rights_come_back(self):
        source, target = self.here / "source", self.here / "target"
        source.mkdir()
        write(source / "hidden.txt", b"x")
        write(source / "private.txt", b"x")
        os.chmod(source / "private.txt", 0o600)
        attrib = ["wine", "cmd", "/c", "attrib"]
        self.run_line([*attrib, "+h", "+s", self.windows_path(source / "hidden.txt")], (0,))
        self.windows("init")
        self.windows("backup", source)
        # Through the other system and back, as attributes that it can keep.
        there = self.here / "there"
        self.linux("restore", f"latest:{self.recorded(source)}", "--target", there)
        names = set(os.listxattr(there / "hidden.txt"))
        self.assertLessEqual({"user.win.attributes", "user.win.created", "user.win.security"}, names)
        self.linux("backup", there)
        self.windows("restore", f"latest:{there}", "--target", target)
        before, after = (
            self.run_line([*attrib, self.windows_path(folder / "hidden.txt")], (0,)).stdout
            for folder in (source, target))
        self.assertEqual(after.split(b"C:")[0], before.split(b"C:")[0])
        self.assertIn(b"S", before.split(b"C:")[0])
        # What is saved of it there is the same. (Wine makes a security descriptor of a file's mode.)
        again, kept = self.here / "again", ("user.win.attributes", "user.win.security")
        self.windows("backup", target)
        self.linux("restore", f"latest:{self.recorded(target)}", "--target", again)
        saved = lambda top, name: [os.getxattr(top / name, attribute) for attribute in kept]
        for name in ("hidden.txt", "private.txt"):
            self.assertEqual(saved(again, name), saved(there, name), name)
        self.assertNotEqual(saved(there, "hidden.txt")[1], saved(there, "private.txt")[1])
        os.setxattr(there / "hidden.txt", "user.win.security", b"nonsense")
        self.linux("backup", there)
        bad = self.windows("restore", f"latest:{there}", "--target", self.here / "bad", codes=(3,))
        self.assertIn(b"the recorded security descriptor is damaged", bad.stderr)
        self.assertEqual(contents(self.here / "bad"), contents(there))

    def test_names_survive_both_ways(self):
        source, target, back = (self.here / name for name in ("source", "target", "back"))
        source.mkdir()
        top = os.fsencode(source)
        for number, name in enumerate(HARD):
            os.mkdir(os.path.join(top, b"d " + name))
            write(os.path.join(top, name), b"file %d" % number)
            write(os.path.join(top, b"d " + name, name), b"inside %d" % number)
        self.linux("init")
        self.linux("backup", source)
        self.windows("check", "--read-data")
        self.windows("restore", f"latest:{source}", "--target", target)
        on_windows = set(contents(target))
        self.assertIn("a\uf03ab".encode(), on_windows)
        self.assertIn("\uf063on".encode(), on_windows)
        for path in on_windows:
            name = os.path.basename(path).decode()
            self.assertFalse(set(name) & set('\\:*?"<>|') or name[-1] in " .", name)
        self.windows("backup", target)
        self.linux("restore", f"latest:{self.recorded(target)}", "--target", back)
        self.assertEqual(contents(back), contents(source))

    def test_what_windows_lacks_is_reported_and_the_rest_restored(self):
        source, target = self.here / "source", self.here / "target"
        source.mkdir()
        write(source / "README", b"one")
        write(source / "readme", b"two")
        os.mkfifo(source / "fifo")
        write(source / "note", b"x")
        os.setxattr(source / "note", "user.comment", b"y")
        self.linux("init")
        self.linux("backup", source)
        done = self.windows("restore", f"latest:{source}", "--target", target, codes=(3,))
        text = done.stderr.decode()
        self.assertIn("fifo: can't be made: Windows has no FIFOs", text)
        self.assertIn("user.comment", text)
        self.assertIn("eadme", text)
        self.assertEqual((target / "note").read_bytes(), b"x")

    def test_what_a_killed_restore_has_left_is_removed_by_the_next(self):
        source, target = self.here / "source", self.here / "target"
        source.mkdir()
        write(source / "large", random.Random(9).randbytes(60_000_000))
        self.windows("init")
        self.windows("backup", source)
        words = ("restore", f"latest:{self.recorded(source)}", "--target", target, "--overwrite")
        passing = lambda: list(target.glob(".tresor-*"))
        running = self.windows(*words, start=True)
        while not passing() and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(signal.SIGSTOP)
        [left] = passing()
        time.sleep(3)
        # As long as somebody is at it, it is no leftover.
        self.windows(*words)
        self.assertEqual(passing(), [left])
        running.kill()
        running.communicate()
        # Nor is what somebody has called so, or has copied here.
        elsewhere, theirs = self.here / "elsewhere", target / ".tresor-0123456789abcdef"
        elsewhere.mkdir()
        copied = elsewhere / left.name
        for path in (theirs, copied):
            write(path, b"theirs", 1_000_000_000)
        time.sleep(3)
        self.windows(*words)
        self.assertEqual(passing(), [theirs])
        self.assertEqual((target / "large").read_bytes(), (source / "large").read_bytes())
        self.windows("restore", words[1], "--target", elsewhere, "--overwrite")
        self.assertEqual(copied.read_bytes(), b"theirs")

    def test_wrong_password_and_missing_repository_have_their_codes(self):
        self.windows("snapshots", codes=(10,))
        self.windows("init")
        self.env = {**self.env, "TRESOR_PASSWORD": "another"}
        self.windows("snapshots", codes=(12,))

    def test_a_path_that_is_not_there_is_named(self):
        self.windows("init")
        done = self.windows("backup", "C:\\no such folder", codes=(1,))
        self.assertIn(b"C:\\no such folder", done.stderr)
