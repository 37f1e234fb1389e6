"""What is looked for among all processes of the host, pods' own too."""

from __future__ import annotations

import subprocess
import sys

from crib.backends.oci import strays


def test_a_command_line_that_is_cut_off_where_a_bundle_would_come_hides_nothing() -> None:
    begin = [sys.executable, "-c", "import sys; print('begun', flush=True); sys.stdin.read()"]
    padding = "x" * (
        strays._COMMAND_BYTES - sum(len(word) + 1 for word in begin) - len("-") - len("--bundle")
    )
    with subprocess.Popen(
        [*begin, padding, "--bundle-of-something"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            with open(f"/proc/{process.pid}/cmdline", "rb") as file:
                assert file.read(strays._COMMAND_BYTES).endswith(b"\0--bundle")
            assert list(strays._monitors("/nowhere")) == []
        finally:
            process.kill()
