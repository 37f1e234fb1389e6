"""What runs in the guests, and the table of it in docs/compatibility.md.

A suite is pytest or critest; both write JUnit reports, from which a row of the table is made.
"""

from __future__ import annotations

import datetime
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from tests.guest.images import ROOT, LabError, OutOfTime
from tests.guest.lab import ARTEFACTS, Guest

END_SECONDS = 60.0
"""For a suite that is interrupted to clear away and write its report."""
_TIMED_OUT = (124, 128 + signal.SIGKILL)
"""What timeout(1) ends with."""
TABLE = ROOT / "docs" / "compatibility.md"
CRITEST = "/root/critest"
COLUMNS = (
    "guest",
    "distribution",
    "kernel",
    "cgroup",
    "init",
    "security",
    "OCI runtimes",
    "suite",
    "result",
    "when",
)
_BEGIN, _END = "<!-- script/guest --record writes what follows -->", "<!-- end -->"
_PYTEST = (
    "python -m pytest -vv --tb=short -p tests.guest.told -p no:cacheprovider "
    "--junit-xml=$CRIB_ARTEFACTS/report.xml --durations=40"
)
_SYSTEM: Mapping[str, tuple[str, ...]] = {
    "pods": (
        "host", "stories/test_pod_life.py", "stories/test_pod_metrics.py", "stories/test_restart.py",
        "stories/test_running.py", "stories/test_seeing.py", "stories/test_start.py",
        "stories/test_systemd.py", "stories/test_update.py", "stories/test_userns.py",
    ),
    "shims": (
        "shim/test_shared_sweeps.py", "shim/test_shim_deaths.py", "stories/test_checkpoints*.py",
        "stories/test_containerd.py", "stories/test_restored.py",
        "stories/test_shim*.py",
    ),
    "oci": ("oci",),
    "network": ("network", "stories/test_network*.py"),
    "volumes": (
        "volumes", "images/test_erofs_mount.py", "images/test_layer_*.py",
        "images/test_worker_confinement.py", "stories/test_csi_volumes.py", "stories/test_hung_volumes.py",
        "stories/test_pod_volumes.py", "stories/test_volume*.py",
    ),
    "security": (
        "oci/test_apparmor*.py", "oci/test_selinux.py", "oci/test_container_cves.py",
        "oci/test_seccomp_notifier.py", "images/test_worker_confinement.py", "stories/test_userns.py",
        "stories/test_volume_labels.py",
    ),
}  # fmt: skip
"""Of tests/system, what touches cgroups, mounts, security, network, recovery: in parts of half an hour.
The last is a choice of the others, for guests with less time.
Without shim/test_own_kernels.py: a fake shim, to which the kernel makes no difference.
"""

FACTS = r"""
. /etc/os-release
echo "distribution=$NAME $VERSION_ID"
echo "kernel=$(uname -rv)"
echo "cgroup=$(stat -f -c %T /sys/fs/cgroup)"
echo "init=$(systemctl --version | head -n 1)"
echo "lsm=$(cat /sys/kernel/security/lsm) enforce=$(cat /sys/fs/selinux/enforce 2>/dev/null)"
echo "crun=$(crun --version | head -n 1)"
echo "runc=$(runc --version | head -n 1)"
"""


@dataclass(frozen=True)
class Suite:
    """A shell command that leaves its JUnit report in $CRIB_ARTEFACTS/report.xml."""

    command: str
    needs_critest: bool = False


def _critest(handler: str) -> Suite:
    command = f"python -m tests.guest.conformance {handler} {CRITEST} $CRIB_ARTEFACTS/report.xml"
    return Suite(command, needs_critest=True)


def _system(names: Iterable[str]) -> Suite:
    paths = dict.fromkeys(f"tests/system/{name}" for name in names)
    return Suite(f"{_PYTEST} -n 2 --dist worksteal -m 'not nightly' {' '.join(paths)}")


SUITES: Mapping[str, Suite] = {
    "smoke": Suite(f"{_PYTEST} tests/guest/smoke.py"),
    **{f"system {part}": _system(names) for part, names in _SYSTEM.items()},
    "critest crun": _critest("crun"),
    "critest runc": _critest("runc"),
}


@dataclass(frozen=True)
class Result:
    """How a suite went: counts of its report, and its seconds."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    failures: tuple[str, ...] = ()
    cut_off: bool = False
    """Its time was up before it was done."""

    def __str__(self) -> str:
        parts = [f"{self.passed} passed"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += ["cut off"] if self.cut_off else []
        return f"{', '.join(parts)} in {self.seconds:.0f} s"


def run_suite(guest: Guest, name: str, artefacts: Path, within: float | None = None) -> Result:
    """Run it in this guest, which has the checkout; its report and logs are brought to `artefacts`.

    It is interrupted after `within` seconds, and killed `END_SECONDS` later. OutOfTime: then it left none.
    """
    suite = SUITES[name]
    if suite.needs_critest:
        guest.copy_in(critest(), CRITEST)
    began = datetime.datetime.now(datetime.UTC)
    mirror = {name: os.environ[name] for name in ("CRIB_CRITEST_MIRROR",) if name in os.environ}
    command = [*guest.level_of_services, "sh", "-c", suite.command]
    if within is not None:
        command = ["timeout", "--signal=INT", f"--kill-after={END_SECONDS:.0f}", f"{within:.0f}", *command]
    code = guest.stream(*command, env=mirror)
    cut_off = within is not None and code in _TIMED_OUT
    took = (datetime.datetime.now(datetime.UTC) - began).total_seconds()
    guest.copy_out(ARTEFACTS, artefacts)
    report = artefacts / "report.xml"
    if not report.exists():
        words = f"{name} ended with exit code {code} and left no report"
        raise OutOfTime(f"{words} when its time was up") if cut_off else LabError(words)
    return replace(result_of(report.read_text(), took), cut_off=cut_off)


def critest() -> Path:
    """The binary, of the host: CRIB_CRITEST names it."""
    found = Path(os.environ.get("CRIB_CRITEST", ""))
    if not found.is_file():
        raise LabError(f"CRIB_CRITEST must name critest of cri-tools, and is {str(found)!r}")
    return found


def result_of(report: str, seconds: float) -> Result:
    """From a JUnit report."""
    told = ElementTree.fromstring(report).iter("testcase")  # our own guest wrote it
    cases: dict[str, set[str]] = {}
    for case in told:  # one whose teardown fails as well comes twice
        outcomes = cases.setdefault(f"{case.get('classname')}::{case.get('name')}", set())
        outcomes |= {part.tag for part in case}
    failed = tuple(name for name, tags in cases.items() if tags & {"failure", "error"})
    skipped = [name for name, tags in cases.items() if name not in failed and "skipped" in tags]
    return Result(len(cases) - len(failed) - len(skipped), len(failed), len(skipped), seconds, failed)


def facts_row(facts: str) -> tuple[str, ...]:
    """Distribution, kernel, cgroup, init, LSM and runtimes, from what FACTS printed."""
    found = dict(line.split("=", 1) for line in facts.splitlines() if "=" in line)
    cgroup = {"cgroup2fs": "v2"}.get(found["cgroup"], "v1")
    lsm, _, enforce = found["lsm"].partition(" enforce=")
    security = "SELinux" if "selinux" in lsm else "AppArmor" if "apparmor" in lsm else "none"
    mode = {"0": " permissive", "1": " enforcing"}.get(enforce, "")
    return (
        found["distribution"].replace("GNU/Linux ", ""),
        _version(found["kernel"].partition("Debian ")[2] or found["kernel"]),
        cgroup,
        " ".join(found["init"].split()[:2]),
        security + mode,
        ", ".join(f"{name} {_version(found[name])}" for name in ("crun", "runc")),
    )


def _version(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+", text)
    return found.group() if found else "?"


def record(guest: Guest, suite: str, result: Result, commit: str) -> None:
    """Put the row of this guest and suite into the table, in place of an older one; `commit` is what ran."""
    facts = facts_row(guest.run("sh", "-c", FACTS).stdout)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    row = (guest.name, *facts, suite, str(result), f"{today} {commit}")
    TABLE.write_text(with_rows(TABLE.read_text(), [row]))


def with_rows(text: str, fresh: Iterable[Sequence[str]]) -> str:
    """The paper with these rows in its table: one for each guest and suite, in order."""
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    rows = {_key(row): row for row in (*rows_of(text), *map(tuple, fresh))}
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(rows[key] for key in sorted(rows))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}"


def rows_of(text: str) -> list[tuple[str, ...]]:
    """The rows of the paper's table."""
    table = text.partition(_BEGIN)[2].partition(_END)[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def _key(row: Sequence[str]) -> tuple[str, int]:
    return row[0], list(SUITES).index(row[COLUMNS.index("suite")])


def checkout_commit() -> str:
    """The commit of the working tree, with a + when it has changes on top."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no commit"
