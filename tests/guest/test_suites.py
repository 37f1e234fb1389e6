"""Reports become rows, rows a table, and the table in the papers is one that the lab wrote."""

from __future__ import annotations

import re

import pytest

from tests.guest.images import PACKAGES, RECIPES, ROOT
from tests.guest.suites import COLUMNS, SUITES, TABLE, Result, facts_row, result_of, rows_of, with_rows

pytest_plugins = ["pytester"]

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure/></testcase>
<testcase classname="a" name="bad"><error/></testcase>
<testcase classname="a" name="absent"><skipped/></testcase>
</testsuite></testsuites>"""
FACTS = """distribution=Debian GNU/Linux 13
kernel=6.1.0-57-cloud-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-10-02)
cgroup=cgroup2fs
init=systemd 257 (257.13-1~deb13u1)
lsm=lockdown,capability,landlock,yama,apparmor enforce=
crun=crun version 1.21
runc=runc version 1.1.15+ds1
"""


def row(guest: str, suite: str, result: str = "1 passed in 1 s") -> tuple[str, ...]:
    return (guest, *facts_row(FACTS), suite, result, "2026-11-29 abc1234")


def test_a_test_that_failed_twice_counts_once() -> None:
    result = result_of(REPORT, 12.4)
    assert result == Result(1, 1, 1, 12.4, ("a::bad",))
    assert str(result) == "1 passed, 1 failed, 1 skipped in 12 s"


def test_what_a_guest_says_of_itself_becomes_the_columns_of_its_row() -> None:
    assert facts_row(FACTS) == (
        "Debian 13",
        "6.1.176",
        "v2",
        "systemd 257",
        "AppArmor",
        "crun 1.21, runc 1.1.15",
    )


def test_selinux_is_told_with_its_mode() -> None:
    enforcing = FACTS.replace("apparmor enforce=", "selinux enforce=1")
    assert facts_row(enforcing)[4] == "SELinux enforcing"
    assert facts_row(enforcing.replace("enforce=1", "enforce=0"))[4] == "SELinux permissive"


def test_a_row_takes_the_place_of_the_older_one_of_its_guest_and_suite() -> None:
    text = with_rows(
        TABLE.read_text(), [row("trixie", "smoke", "2 passed in 99 s"), row("bookworm", "system oci")]
    )
    again = with_rows(text, [row("trixie", "smoke", "3 passed in 98 s")])
    ours = [found for found in rows_of(again) if found[-1] == "2026-11-29 abc1234"]
    assert row("trixie", "smoke", "3 passed in 98 s") in ours
    assert row("bookworm", "system oci") in ours
    assert "2 passed in 99 s" not in again
    assert with_rows(again, []) == again
    assert again.partition("<!--")[0] == text.partition("<!--")[0]


def test_the_table_of_the_papers_is_one_that_the_lab_wrote() -> None:
    text = TABLE.read_text()
    assert with_rows(text, []) == text
    for found in rows_of(text):
        assert len(found) == len(COLUMNS)
        by_name = dict(zip(COLUMNS, found, strict=True))
        assert by_name["guest"] in RECIPES
        assert by_name["suite"] in SUITES
        assert by_name["cgroup"] in ("v1", "v2")
        assert re.fullmatch(
            r"\d+ passed(, \d+ failed)?(, \d+ skipped)?(, cut off)? in \d+ s", by_name["result"]
        )
        assert re.fullmatch(r"20\d\d-\d\d-\d\d \S+", by_name["when"])


def test_a_failure_is_printed_before_the_next_test_runs(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile("def test_bad():\n    assert 1 == 2\n\ndef test_good():\n    pass\n")
    said = pytester.runpytest_inprocess("-v", "-p", "tests.guest.told").stdout.str()
    assert said.index("assert 1 == 2") < said.index("::test_good")


def test_guests_have_what_the_tests_need() -> None:
    setup = (ROOT / "script/setup").read_text()
    listed = re.search(r'\[ -z "\$dev" \] \|\| packages="\$packages (.*)"', setup)
    assert listed is not None
    assert set(listed[1].split()) - set(PACKAGES) == {"lintian", "runsc"}


def test_every_suite_runs_at_night() -> None:
    nightly = (ROOT / "script/nightly").read_text()
    loop = nightly.partition("for suite in ")[2].partition("; do")[0]
    assert set(re.findall(r'(?:smoke|"[^"]+")', loop)) == {"smoke"} | {
        f'"{name}"' for name in SUITES if name not in ("smoke", "system security")
    }  # security is a choice of the others


def test_every_test_of_a_suite_exists() -> None:
    for suite in SUITES.values():
        for pattern in re.findall(r"tests/\S+", suite.command):
            assert list(ROOT.glob(pattern)), pattern
