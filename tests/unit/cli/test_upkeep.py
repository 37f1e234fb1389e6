"""`crib check` and `crib wipe`: the lines that they write, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import IO

import pytest

from crib.cli import app, upkeep
from crib.cli.forms import Format
from crib.cli.node_options import NodeCheckOptions, WipeKind, WipeOptions
from crib.cli.session import CliSession, CommandError
from crib.client.errors import WrongState
from crib.stubs.node.v1.node_pb2 import Finding, Wiped

SESSION = CliSession("unix:///nowhere")
WRONG = Finding(
    area="leftovers", subject="container abc", problem="belongs to no record", mend="it is removed"
)
MENDED = Finding(area="pods", subject="p", problem="is gone", mend="it is shown", mended=True)
NOTE = Finding(area="logs", subject="/l", problem="is nobody's", note=True)


def told(monkeypatch: pytest.MonkeyPatch, *items: Finding | Wiped) -> None:
    """Have the commands find or remove these."""

    async def stream(*_: object) -> AsyncIterator[Finding | Wiped]:
        for item in items:
            yield item

    monkeypatch.setattr(upkeep, "_findings", stream)
    monkeypatch.setattr(upkeep, "_wiped", stream)


@pytest.mark.parametrize(
    ("finding", "line"),
    [
        (WRONG, "wrong    leftovers   container abc: belongs to no record (--repair: it is removed)"),
        (MENDED, "repaired pods        p: is gone"),
        (NOTE, "note     logs        /l: is nobody's"),
        (Finding(area="node", problem="x"), "wrong    node        x (no repair can fix this)"),
        (
            Finding(area="images", subject="l", problem="is damaged", mend="m", mend_error="no\nregistry"),
            "wrong    images      l: is damaged; not repaired: no?registry",
        ),
    ],
)
def test_each_finding_is_a_line_that_says_what_a_repair_would_do(finding: Finding, line: str) -> None:
    assert upkeep.finding_line(finding) == line


@pytest.mark.parametrize(
    ("found", "code", "last"),
    [
        ((), 0, "nothing is wrong"),
        ((NOTE, MENDED), 0, "nothing is wrong, 1 repaired, 1 noted"),
        ((WRONG, NOTE), 1, "1 wrong, 1 noted"),
    ],
)
async def test_a_check_ends_with_1_when_something_is_wrong_still(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: tuple[Finding, ...],
    code: int,
    last: str,
) -> None:
    told(monkeypatch, *found)
    assert await upkeep.check(SESSION, NodeCheckOptions()) == code
    assert capsys.readouterr().out.splitlines()[-1] == last


async def test_a_check_as_json_is_all_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, WRONG, NOTE)
    assert await upkeep.check(SESSION, NodeCheckOptions(output=Format.JSON)) == 1
    assert [one["area"] for one in json.loads(capsys.readouterr().out)] == ["leftovers", "logs"]


async def test_a_check_that_cannot_be_made_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> AsyncIterator[Finding]:
        raise WrongState("another cribd")
        yield WRONG

    monkeypatch.setattr(upkeep, "_findings", broken)
    with pytest.raises(CommandError, match="another cribd") as caught:
        await upkeep.check(SESSION, NodeCheckOptions())
    assert caught.value.exit_code == upkeep.NOT_LOOKED_AT


async def test_a_wipe_does_nothing_before_it_is_told_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, Wiped(kind="pods", name="web"))
    with pytest.raises(CommandError, match="--dry-run"):
        await upkeep.wipe(SESSION, WipeOptions([WipeKind.PODS]))


async def test_a_wipe_tells_what_is_gone_and_what_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, Wiped(kind="pods", name="web"), Wiped(kind="pods", name="db", problem="busy"))
    assert await upkeep.wipe(SESSION, WipeOptions([WipeKind.PODS], yes=True)) == 1
    assert capsys.readouterr().out == "removed      pods       web\nstill there  pods       db: busy\n"
    assert await upkeep.wipe(SESSION, WipeOptions([WipeKind.PODS], dry_run=True)) == 1
    assert capsys.readouterr().out.startswith("would remove pods       web\n")


def test_their_help_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("check", "--repair"), ("wipe", "--dry-run")):
        app.app([command, "--help"], prog_name="crib", standalone_mode=False)
        assert words in capsys.readouterr().out


@pytest.mark.parametrize(("problem", "code"), [("it is in use", 1), ("", 2)])
async def test_an_offline_wipe_ends_with_1_when_it_told_what_is_still_there_and_else_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: str, code: int
) -> None:
    line = json.dumps({"kind": "pods", "name": "web", "problem": problem})

    def started(command: Sequence[str], words: IO[bytes]) -> subprocess.Popen[bytes]:
        program = "import sys; print(sys.argv[1]); sys.exit('cribd: no')"
        return subprocess.Popen([sys.executable, "-c", program, line], stdout=subprocess.PIPE, stderr=words)

    monkeypatch.setattr(upkeep, "_started", started)
    options = WipeOptions([WipeKind.PODS], yes=True, offline=True)
    if code == 1:
        assert await upkeep.wipe(SESSION, options) == code
        assert "still there  pods       web: it is in use" in capsys.readouterr().out
    else:
        with pytest.raises(CommandError, match="cribd: no") as failed:
            await upkeep.wipe(SESSION, options)
        assert failed.value.exit_code == code
