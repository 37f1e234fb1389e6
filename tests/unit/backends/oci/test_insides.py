"""What is made of a runtime's table of processes."""

from __future__ import annotations

from crib.backends.oci.insides import family, parents

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
