"""A drive that is mounted by the program for Windows, and the tree that it shows."""

import json

import drive
from drive import Thread
from programs import Programs


class Mounted(Programs):
    def mount(self, *words):
        self.port = drive.free_port()
        env = self.env
        self.env = {**env, "TRESOR_TEST_DRIVER": str(self.port)}
        self.point = words[-1]
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
            # `*` is this one under Wine.
            point = "Y:" if self.point == "*" else self.point
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

    def handles(self, thread):
        """How many the program has."""
        return thread.done(drive.HANDLES)[1]


def meaning(path):
    """A path of Windows as one of the snapshot: private characters stand for bytes."""
    parts = []
    for name in path.split("\\"):
        units = (bytes([ord(c) & 0xFF]) if 0xF001 <= ord(c) <= 0xF0FF else c.encode() for c in name)
        parts.append(b"".join(units))
    return b"/".join(parts)
