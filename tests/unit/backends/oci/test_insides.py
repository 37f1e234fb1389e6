"""What is made of a runtime's table of processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from crib.backends.oci import inside_programs
from crib.backends.oci.command_lines import RuntimeProgram
from crib.backends.oci.environment import OciEnvironment
from crib.backends.oci.inside_programs import TOGETHER
from crib.backends.oci.insides import Insides, family, parents
from crib.host.processes import Completed
from crib.model.ids import ContainerId

TABLE = """UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         2         0         1         ?         06:07     10ms      sleep
0         4         0         0         ?         06:07     10ms      sh
0         5         4         0         ?         06:07     10ms      setsid
0         9         5         0         ?         06:07     10ms      sleep
"""


def test_a_process_is_followed_by_all_that_it_started() -> None:
    assert parents(TABLE) == {2: 0, 4: 0, 5: 4, 9: 5}
    assert list(family(4, parents(TABLE))) == [4, 5, 9]
    assert list(family(7, parents(TABLE))) == [7]


def test_another_kind_of_table_names_no_parents() -> None:
    assert parents("") == {}
    assert parents("PID\n7\n") == {}
    assert parents("PID PPID\nx y\n7\n") == {}


async def test_a_command_of_many_processes_is_killed_by_a_few_programs_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = "PID PPID\n1 0\n" + "".join(f"{pid} 1\n" for pid in range(2, 32))
    running, most, killed = 0, 0, 0

    async def run(argv: tuple[str, ...], **_more: object) -> Completed:
        nonlocal running, most, killed
        if "ps" in argv:
            return Completed(argv, 0, table.encode(), b"", 0.0)
        running, killed = running + 1, killed + 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Completed(argv, 0, b"", b"", 0.0)

    monkeypatch.setattr(inside_programs, "run", run)
    (tmp_path / "pid").write_text("1")
    environment = SimpleNamespace(settings=SimpleNamespace(verb_timeout=1.0))
    inside = Insides(cast("OciEnvironment", environment))
    await inside.kill(RuntimeProgram("runsc", "/r"), ContainerId("c" * 64), str(tmp_path / "pid"))
    assert (killed, most) == (31, TOGETHER)
