"""Shadow copies: what a backup asks of the service (vss.cpp stands in for it), and what it saves."""

import json
import os
import shutil
import threading
import time

from programs import Programs, contents

ACCESS_DENIED = "80070005"
UNEXPECTED = "80042302"

BEFORE = ["CreateVssBackupComponents", "InitializeForBackup", "SetContext", "SetBackupState",
          "GatherWriterMetadata", "IsVolumeSupported", "StartSnapshotSet", "AddToSnapshotSet",
          "PrepareForBackup", "GatherWriterStatus", "DoSnapshotSet", "GetSnapshotProperties"]
STATUS = ["GatherWriterStatus", "GetWriterStatusCount", "GetWriterStatus", "GetWriterStatus",
          "FreeWriterStatus"]
SLOW = ["GatherWriterMetadata", "PrepareForBackup", "GatherWriterStatus", "DoSnapshotSet"]


class Vss(Programs):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        system = cls.prefix / "drive_c" / "windows" / "system32"
        shutil.copy(os.environ["TRESOR_TEST_VSSAPI"], system / "vssapi.dll")
        cls.env["WINEDLLOVERRIDES"] += ";vssapi=n"

    def setUp(self):
        super().setUp()
        self.source, self.vss = self.here / "source", self.here / "vss"
        (self.source / "ä folder").mkdir(parents=True)
        (self.source / "ä folder" / "file.txt").write_bytes(b"inside")
        (self.source / "database").write_bytes(b"consistent")
        self.windows("init")

    def backup(self, *words, codes=(0,), **settings):
        """A backup of the source; settings are those of the stand-in."""
        shutil.rmtree(self.vss, ignore_errors=True)
        self.vss.mkdir()
        env = self.env
        settings = {f"TRESOR_TEST_VSS_{name}": value for name, value in settings.items()}
        self.env = {**env, **settings, "TRESOR_TEST_VSS": self.windows_path(self.vss),
                    "TRESOR_TEST_VSS_SOURCE": self.windows_path(self.source)}
        try:
            return self.windows("backup", *(words or ("--use-fs-snapshot=on",)), self.source, codes=codes)
        finally:
            self.env = env

    def calls(self):
        return (self.vss / "log").read_text().splitlines()

    def assert_tidy(self):
        """Nothing is left of the shadow copy, and nothing was asked at the wrong time."""
        self.assertEqual([path.name for path in self.vss.iterdir()], ["log"])
        calls = self.calls()
        bad = [c for c in calls if c in ("BAD STATE", "COPIES LEFT") or c.startswith("unexpected")]
        self.assertEqual(bad, [], calls)
        if calls != ["CreateVssBackupComponents"]:
            self.assertEqual(calls[-1], "objects left: 0", calls)

    def saved(self):
        target = self.here / "target"
        shutil.rmtree(target, ignore_errors=True)
        self.windows("restore", f"latest:{self.recorded(self.source)}", "--target", target)
        return contents(target)

    def snapshots(self):
        return json.loads(self.windows("snapshots", "--json").stdout)

    def test_files_come_from_the_shadow_copy_under_the_paths_of_the_living_volume(self):
        before = contents(self.source)
        done = self.backup(WRITES=self.windows_path(self.source / "database"))
        self.assertEqual((self.source / "database").read_bytes(), b"went on")
        self.assertEqual(self.saved(), before)
        self.assertIn(b"a snapshot of C:", done.stdout)
        self.assertEqual(done.stderr, b"")
        self.assert_tidy()
        calls = [c for c in self.calls() if not c.startswith("components")]
        self.assertEqual(calls, [
            *BEFORE[:9], *STATUS, "DoSnapshotSet", *STATUS, "GetSnapshotProperties",
            "BackupComplete", *STATUS, "DeleteSnapshots", "copies removed", "Release", "objects left: 0"])
        # Whole volumes, no component for itself, and nobody's logs are cut off.
        self.assertIn("components 0, system state 0, type 5, partial 0", self.calls())
        # And another one of what has become of it.
        self.backup("--use-fs-snapshot=auto")
        self.assertEqual(self.saved(), contents(self.source))

    def test_what_fails_before_the_backup_leaves_nothing_behind(self):
        cases = [(call, call) for call in BEFORE] + [(call, f"{call}.async") for call in SLOW]
        for call, setting in cases:
            with self.subTest(setting):
                done = self.backup("--use-fs-snapshot", FAIL=f"{setting}={UNEXPECTED}", codes=(1,))
                self.assertIn(f"{call}: an unexpected error".encode(), done.stderr)
                self.assert_tidy()
                aborted = "AbortBackup" in self.calls()
                self.assertEqual(aborted, "StartSnapshotSet" in self.calls()[:-1] and call != "StartSnapshotSet")
        self.assertEqual(self.snapshots(), [])

    def test_what_fails_after_the_backup_is_a_problem_and_the_snapshot_is_saved(self):
        for setting in ["BackupComplete", "BackupComplete.async", "DeleteSnapshots"]:
            with self.subTest(setting):
                done = self.backup(FAIL=f"{setting}={UNEXPECTED}", codes=(3,))
                self.assertIn(setting.split(".")[0].encode(), done.stderr)
                self.assertIn(b"saved", done.stdout)
                self.assert_tidy()
        self.assertEqual(len(self.snapshots()), 3)

    def test_a_backup_that_fails_gives_the_shadow_copy_up(self):
        shutil.rmtree(self.repo / "packs")
        (self.repo / "packs").write_bytes(b"no folder")
        self.backup(codes=(1,))
        self.assert_tidy()
        calls = self.calls()
        self.assertNotIn("BackupComplete", calls)
        self.assertEqual(calls[calls.index("AbortBackup"):],
                         ["AbortBackup", "DeleteSnapshots", "copies removed", "Release", "objects left: 0"])

    def test_writers_that_fail_are_named(self):
        done = self.backup(WRITER="9=800423f2", codes=(3,))
        self.assertIn(b"VSS writer Test Writer: failed when it was to hold its files still", done.stderr)
        self.assertEqual(done.stderr.count(b"Test Writer"), 1)
        self.assertNotIn(b"Registry Writer", done.stderr)
        self.assert_tidy()
        done = self.backup("--json", "--use-fs-snapshot", WRITER="5=800423f4", codes=(3,))
        lines = self.json_lines(done)
        errors = [line for line in lines if line["message_type"] == "error"]
        self.assertEqual([e["path"] for e in errors], ["VSS writer Test Writer"])
        summary = lines[-1]
        self.assertEqual((summary["fs_snapshot"], summary["source_problems"], summary["errors"]), (["C:"], 1, 0))

    def test_without_rights_it_goes_on_without_unless_a_snapshot_is_required(self):
        denied = f"CreateVssBackupComponents={ACCESS_DENIED}"
        done = self.backup("--use-fs-snapshot=on", FAIL=denied, codes=(1,))
        self.assertIn(b"rights of an administrator", done.stderr)
        done = self.backup("--tag", "x", FAIL=denied)
        self.assertIn(b"rights of an administrator", done.stderr)
        self.assertIn(b"files are read as they are", done.stderr)
        self.assertEqual(self.saved(), contents(self.source))
        self.assert_tidy()
        done = self.backup("--json", FAIL=denied)
        self.assertEqual(self.json_lines(done)[0]["message_type"], "note")
        self.assertEqual(self.backup("--quiet", FAIL=denied).stderr, b"")
        # What should work and doesn't is more than a note.
        done = self.backup("--tag", "x", FAIL=f"DoSnapshotSet.async={UNEXPECTED}", codes=(3,))
        self.assertIn(b"DoSnapshotSet", done.stderr)
        self.assert_tidy()
        self.assertEqual(self.saved(), contents(self.source))

    def test_off_asks_for_nothing(self):
        self.backup("--use-fs-snapshot=off")
        self.assertEqual(list(self.vss.iterdir()), [])

    def test_a_volume_without_shadow_copies(self):
        done = self.backup("--use-fs-snapshot=auto", NO="C")
        self.assertIn(b"no shadow copies of any volume", done.stderr)
        self.assert_tidy()
        self.assertNotIn("StartSnapshotSet", self.calls())
        self.backup(NO="C", codes=(1,))
        self.assert_tidy()

    def test_another_program_is_waited_for(self):
        def tidy_up():
            while not (self.vss / "log").exists() or "StartSnapshotSet" not in self.calls():
                time.sleep(0.1)
            (self.vss / "in progress").unlink()

        real = Programs.windows

        def windows(test, *words, **more):
            if words[0] == "backup":
                (self.vss / "in progress").touch()
            return real(test, *words, **more)

        thread = threading.Thread(target=tidy_up)
        thread.start()
        Programs.windows = windows
        try:
            self.backup()
        finally:
            Programs.windows = real
            thread.join()
        self.assertGreater(self.calls().count("StartSnapshotSet"), 1)
        self.assert_tidy()

    def test_the_system_state_is_the_drives_that_it_lies_on(self):
        other = self.here / "drive d"
        other.mkdir()
        letter = self.prefix / "dosdevices" / "d:"
        if letter.is_symlink():
            letter.unlink()
        letter.symlink_to(other)
        self.addCleanup(letter.unlink)
        done = self.backup("--system-state", STATE="D:\\NTDS")
        self.assertIn(rb"\\?\GLOBALROOT\Device\HarddiskVolume1\EFI", done.stderr)
        self.assertNotIn(b"H:", done.stderr)
        self.assertEqual(self.snapshots()[0]["paths"], ["/C", self.recorded(self.source), "/D"])
        self.assertIn("components 0, system state 1, type 5, partial 0", self.calls())
        self.assertEqual(self.calls().count("objects left: 0"), 2)
        self.assert_tidy()
        self.assertEqual(self.saved(), contents(self.source))
        self.backup("--system-state", "--use-fs-snapshot=off", codes=(1,))
        denied = self.backup("--system-state", FAIL=f"CreateVssBackupComponents={ACCESS_DENIED}", codes=(1,))
        self.assertIn(b"rights of an administrator", denied.stderr)
        failed = self.backup("--system-state", FAIL=f"GetWriterMetadata={UNEXPECTED}", codes=(1,))
        self.assertIn(b"GetWriterMetadata: an unexpected error", failed.stderr)
        self.assert_tidy()
