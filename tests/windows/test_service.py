"""A drive that Windows keeps mounted: Wine has a service manager."""

import subprocess
import time

import drive
from drive import Thread
from programs import PASSWORD, Programs

ENVIRONMENT = r"HKLM\System\CurrentControlSet\Control\Session Manager\Environment"
EVENTS = r"HKLM\System\CurrentControlSet\Services\EventLog\Application\tresor"
SERVICE = r"HKLM\System\CurrentControlSet\Services\tresor-restore"
KEPT = "windows/system32/config/systemprofile/AppData/Local/tresor/services/restore.password"
# S-1-5-1
SOMEBODY = bytes([1, 1, 0, 0, 0, 0, 0, 5, 1, 0, 0, 0])


class Service(Programs):
    session = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Services have an environment of their own, which the manager reads when it starts.
        cls.port = drive.free_port()
        cls.wine("reg", "add", ENVIRONMENT, "/v", "TRESOR_TEST_DRIVER", "/d", str(cls.port), "/f")
        cls.restart()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.session.communicate(timeout=60)

    @classmethod
    def wine(cls, *words, codes=(0,)):
        done = subprocess.run(["wine", *words], env=cls.env, capture_output=True, timeout=300,
                              stdin=subprocess.DEVNULL)
        if done.returncode not in codes:
            raise AssertionError(f"{words}\n{done.stdout}\n{done.stderr}")
        return done

    @classmethod
    def restart(cls):
        """As if the power had failed; what services write to the Event Log goes to a file."""
        subprocess.run(["wineserver", "-k"], env=cls.env, check=False, capture_output=True)
        subprocess.run(["wineserver", "-w"], env=cls.env, check=False, capture_output=True)
        if cls.session:
            cls.session.communicate(timeout=60)
        with open(cls.top / "events", "ab") as events:
            env = {**cls.env, "WINEDEBUG": "-all,err+eventlog"}
            # Wine ends services once nobody's program runs.
            cls.session = subprocess.Popen(["wine", "cmd"], env=env, stdin=subprocess.PIPE,
                                           stdout=subprocess.DEVNULL, stderr=events)

    def setUp(self):
        super().setUp()
        (self.here / "source").mkdir()
        (self.here / "source" / "file").write_bytes(b"what is in it")
        self.linux("init")
        self.linux("backup", self.here / "source")
        self.path = str(self.here / "source" / "file").replace("/", "\\")

    def tearDown(self):
        self.windows("service", "remove", "restore", codes=(0, 1))
        super().tearDown()

    def read(self):
        drive.wait_for(self.port, lambda: True)
        with Thread(self.port) as thread, thread.open(self.path) as handle:
            descriptor = thread.done(drive.SECURITY, handle.context)[4]
            self.assertEqual(handle.content(), b"what is in it")
            return descriptor

    def answers(self):
        try:
            with Thread(self.port):
                return True
        except OSError:
            return False

    def until(self, is_so, seconds=60):
        end = time.monotonic() + seconds
        while not is_so():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.5)

    def assert_nothing_is_left(self):
        self.assertEqual(self.windows("service", "list").stdout, b"")
        self.wine("reg", "query", SERVICE, codes=(1,))
        self.wine("reg", "query", EVENTS, codes=(1,))
        self.assertFalse((self.prefix / "drive_c" / KEPT).exists())

    def test_a_drive_is_there_until_its_service_is_removed(self):
        done = self.windows("service", "install", "restore", "latest", "R:", "--reader",
                            "S-1-5-1")
        self.assertIn(b"net stop tresor-restore", done.stdout)
        self.assertIn(b"Program Files", done.stderr)
        self.assertIn(SOMEBODY, self.read())
        self.assertEqual(self.windows("service", "list").stdout, b"restore  running\n")
        # Nobody reads the password out of what is to be run.
        line = self.wine("reg", "query", SERVICE, "/v", "ImagePath").stdout
        self.assertIn(b"service run restore -- mount", line)
        self.assertNotIn(PASSWORD.encode(), line)
        self.assertEqual((self.prefix / "drive_c" / KEPT).read_text(), PASSWORD + "\n")
        taken = self.windows("service", "install", "restore", "R:", codes=(1,)).stderr
        self.assertIn(b"restore already", taken)

        self.wine("net", "stop", "tresor-restore")
        # Wine's `net` doesn't wait for either.
        self.until(lambda: not self.answers())
        self.assertEqual(self.windows("service", "list").stdout, b"restore  stopped\n")
        start = ("net", "start", "tresor-restore")
        self.until(lambda: self.wine(*start, codes=range(256)).returncode == 0)
        self.read()
        self.restart()
        self.read()

        self.windows("service", "remove", "restore")
        self.assertFalse(self.answers())
        self.assert_nothing_is_left()
        missing = self.windows("service", "remove", "restore", codes=(1,)).stderr
        self.assertIn(b"no service restore", missing)

    def test_a_password_in_a_file(self):
        password = self.here / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        install = ("-p", password, "service", "install", "restore", "latest", "R:")
        self.assertIn(b"others can read", self.windows(*install, codes=(1,)).stderr)
        password.chmod(0o600)
        self.windows(*install)
        self.read()
        self.assertFalse((self.prefix / "drive_c" / KEPT).exists())

    def test_what_does_not_start_leaves_nothing(self):
        taken = self.here / "taken"
        (taken / "folder").mkdir(parents=True)
        failed = self.windows("service", "install", "restore", taken, codes=(1,)).stderr
        self.assertIn(b"restore doesn't start", failed)
        self.assertIn(b"Event Viewer", failed)
        events = (self.top / "events").read_bytes()
        self.assertIn(b"taken is no empty folder", events)
        self.assert_nothing_is_left()
        env, self.env = self.env, {**self.env, "TRESOR_PASSWORD": "wrong"}
        self.windows("service", "install", "restore", "R:", codes=(12,))
        self.env = env
        for words, said in [(("Re store", "R:"), b"can't be the name"),
                            (("restore", "--user", "R:"), b"not known on Windows")]:
            failed = self.windows("service", "install", *words, codes=(1,)).stderr
            self.assertIn(said, failed)
        missing = self.windows("service", "install", "restore", "R:", "--reader", "no such user",
                               codes=(1,)).stderr
        self.assertIn(b"restore doesn't start", missing)
        self.assert_nothing_is_left()

    def test_only_the_manager_runs_it(self):
        failed = self.windows("service", "run", "restore", "--", "mount", "R:", codes=(1,)).stderr
        self.assertIn(b"service manager", failed)
