"""Help pages, and what somebody reads who mistypes a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crib.cli import app, command_help, panels
from crib.cli.command_help import CribCommand, CribGroup
from tests.unit.cli.every_command import EVERY, ROOT

TAKE_AWAY = {"stop", "kill", "rm", "rmi", "rmp", "wipe", "abandon", "prune", "down", "restart", "stopp"}
"""What nobody should be led to by a slip of the finger."""


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert app._ending([*words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", EVERY)
def test_every_page_is_ours_and_fits(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(EVERY[path], (CribCommand, CribGroup)), "made with crib.cli.command.command or group"
    monkeypatch.setenv("COLUMNS", "80")
    text = helped(capsys, *path.split()[1:], "--help")
    assert text.startswith("Usage: crib ")
    assert "<" not in text.replace("< password", "")
    assert "-h, --help" in text
    lines = [
        line for line in text.splitlines() if not line.startswith("  crib ")
    ]  # examples are to be pasted
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("path", EVERY)
def test_every_page_says_all_of_what_can_be_given(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = helped(capsys, *path.split()[1:], "--help")
    for param in EVERY[path].params:
        assert param.help, f"{path} does not say what {param.name} is"
        for name in param.opts if param.param_type_name == "option" else [param.metavar or ""]:
            assert name in text
        for choice in command_help.choices_of(param):
            assert choice in text


def test_commands_are_listed_under_headings_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "--help")
    places = [text.index(f"\n{panel}:\n") for panel in panels._ORDER if f"\n{panel}:\n" in text]
    assert len(places) >= 6
    assert places == sorted(places)
    for name in ROOT.commands:
        assert f"\n  {name} " in text


def test_units_bounds_defaults_and_the_environment_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(helped(capsys, "--help").split())
    assert "--timeout SECONDS How long to wait for an answer. (at least 0.1; default 120)" in text
    assert "(or CRIB_ENDPOINT in the environment; default unix:///run/crib/crib.sock)" in text
    text = " ".join(helped(capsys, "top", "--help").split())
    assert "(one of tree, pods, containers; default tree)" in text


@pytest.mark.parametrize("words", [["stats"], ["image", "prune"], ["network"]])
def test_help_is_a_command_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, "help", *words) == helped(capsys, *words, "--help")


def test_help_alone_is_the_whole_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert helped(capsys, "help") == helped(capsys, "--help")
    assert helped(capsys, "image", "help") == helped(capsys, "image", "--help")


@pytest.mark.parametrize(
    ("word", "offered"),
    [
        ("pdos", ["pods", "ps"]),
        ("ims", ["images"]),
        ("imges", ["images", "image", "imagefsinfo"]),
        ("topp", ["top"]),
        ("describe", ["inspect"]),
        ("get", ["pods", "ps", "images"]),
        ("login", ["pull"]),
        ("destroy", []),
        ("delete", []),
        ("rename", []),
        ("sto", ["stop", "stopp", "top"]),
        ("stpo", ["setup"]),
        ("wip", ["wipe"]),
        ("wope", []),
        ("rim", []),
        ("xyz", []),
    ],
)
def test_a_slip_is_answered_with_what_it_may_have_meant(word: str, offered: list[str]) -> None:
    hint = f"; did you mean {' or '.join(offered)}?" if offered else ""
    names = [name for name in ROOT.commands if name not in ("start", "restart")]  # is like stpo, and harmless
    assert command_help.unknown(word, names) == f"there is no command {word!r}{hint}"


def test_no_slip_leads_to_what_takes_things_away() -> None:
    """Every word that is one letter away from a command of ours, or two neighbours exchanged."""
    names = [*ROOT.commands, *TAKE_AWAY]
    for name in names:
        slips = {name[:i] + name[i + 1 :] for i in range(len(name))}
        slips |= {name[:i] + letter + name[i:] for i in range(len(name) + 1) for letter in "aeost"}
        slips |= {name[:i] + name[i + 1 : i + 2] + name[i : i + 1] + name[i + 2 :] for i in range(len(name))}
        for slip in slips - set(names) - {""}:
            said = command_help.unknown(slip, names).partition("mean ")[2].rstrip("?").split(" or ")
            for offered in TAKE_AWAY & set(said):
                assert offered.startswith(slip), (slip, said)


def test_a_misspelt_option_is_answered_with_the_one_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert app._ending(["pods", "--outptu", "json"]) == 2
    assert "--output" in capsys.readouterr().err


def test_pages_need_neither_rich_nor_grpc() -> None:
    code = (
        "import sys; from crib.cli.app import _ending; _ending(['--help']);"
        "sys.exit(str({'rich', 'grpc', 'asyncio', 'google.protobuf', 'yaml'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
