"""A daemon without drivers pays nothing for them."""

from __future__ import annotations

import subprocess
import sys


def test_a_daemon_imports_no_message_of_drivers() -> None:
    program = "import sys, crib.daemon; print([one for one in sys.modules if 'csi' in one.split('.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
