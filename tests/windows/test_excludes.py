"""What Windows lists as not to be backed up."""

from programs import Programs, contents

LISTS = r"HKLM\SYSTEM\CurrentControlSet\Control\BackupRestore"


class Excludes(Programs):
    def list(self, name, entry, *lines):
        self.run_line(["wine", "reg", "add", rf"{LISTS}\{name}", "/v", entry, "/t", "REG_MULTI_SZ",
                       "/d", r"\0".join(lines), "/f"], (0,))

    def test_lists_of_the_registry_hold_unless_they_are_turned_off(self):
        source = self.here / "source"
        (source / "Cache" / "deep").mkdir(parents=True)
        (source / "logs" / "older").mkdir(parents=True)
        for name in ["keep.txt", "Page.SYS", "Cache/a", "Cache/deep/b", "logs/x.log", "logs/older/y.log",
                     "mail.ost", "mail.txt"]:
            (source / name).write_bytes(b"x")
        inside = self.windows_path(source)
        self.env = {**self.env, "TRESOR_TEST_FOLDER": inside}
        self.list("FilesNotToBackup", "Paging", rf"{inside}\page.sys")
        self.list("FilesNotToBackup", "Caches", r"%Tresor_Test_Folder%\cache\* /s", r"%NoSuch%\x")
        self.list("FilesNotToBackup", "Logs", rf"{inside}\logs\*.LOG")
        self.list("FilesNotToSnapshot", "Mail", r"$AllVolumes$" + rf"{inside[2:]}\*.ost")
        self.windows("init")
        dry = self.windows("backup", "--use-fs-snapshot=off", "-n", "-v", source)
        text, top = dry.stdout.decode(), self.recorded(source)
        for name, why in [("Page.SYS", "FilesNotToBackup, Paging"), ("Cache/a", "FilesNotToBackup, Caches"),
                          ("Cache/deep", "FilesNotToBackup, Caches"), ("logs/x.log", "FilesNotToBackup, Logs"),
                          ("mail.ost", "FilesNotToSnapshot, Mail")]:
            self.assertIn(f"left_out   {top}/{name} ({why})", text)
        self.assertIn("left out:       5 entries", text)
        self.assertIn(b"FilesNotToBackup, Caches is not understood: %NoSuch%\\x: there is no %NoSuch%",
                      dry.stderr)
        done = self.windows("backup", "--use-fs-snapshot=off", "--json", source)
        self.assertEqual(self.json_lines(done)[-1]["left_out"], 5)
        self.assertEqual(set(self.saved(source)), {
            b"keep.txt", b"Cache", b"logs", b"logs/older", b"logs/older/y.log", b"mail.txt"})
        # A pattern takes back what a list leaves out.
        self.windows("backup", "--use-fs-snapshot=off", "-e", "!Page.SYS", source)
        self.assertIn(b"Page.SYS", self.saved(source))
        self.windows("backup", "--use-fs-snapshot=off", "--no-system-excludes", source)
        self.assertEqual(self.saved(source), contents(source))

    def saved(self, source):
        target = self.here / "target"
        self.windows("restore", f"latest:{self.recorded(source)}", "--target", target, "--overwrite", "--delete")
        return contents(target)
