"""What tests itself: the parts of the program that only Windows has."""

import os

from programs import Programs


class Units(Programs):
    def test_parts_that_only_windows_has(self):
        done = self.run_line(["wine", os.environ["TRESOR_UNIT_TESTS"]], (0,))
        self.assertIn(b"windows::", done.stdout)
