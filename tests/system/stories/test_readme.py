"""All that the README and the papers for users show is run: commands and their output, programs, settings."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from crib import config
from crib.client import pods
from crib.model.settings import Settings
from crib.stubs.node.v1.node_pb2 import InfoRequest
from crib.wire import cni
from tests.system.labs.daemon import Cribd, running_cribd
from tests.system.labs.demo import CHECKOUT, Demo, copy_demo

PAPERS = ("README.md", "docs/tutorial.md", "docs/kubelet.md", "docs/debugging.md")
KNOWN_KINDS = {"console", "python", "toml", "ini", "yaml", "json"}
ANYTHING = "..."
"""A line of shown output that stands for any number of lines."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+)\)")
_VARYING = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "ID"),
    (re.compile(r"\b\d+\.\d+\.\d+\.\d+(/\d+)?"), "ADDRESS"),
    (re.compile(r"\b\d+\.\d+\b"), "N"),
    (re.compile(r"\b\d+[smh]\b"), "AGE"),
    (re.compile(r"[█▉▊▋▌▍▎▏]"), ""),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Block:
    paper: str
    kind: str
    text: str


def blocks(*kinds: str) -> list[Block]:
    found = []
    for paper in PAPERS:
        for match in _FENCE.finditer((CHECKOUT / paper).read_text()):
            found.append(Block(paper, match[1], match[2]))
    return [block for block in found if not kinds or block.kind in kinds]


def steps(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console block, each with the output that is shown for it."""
    command = ""
    shown: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line.removeprefix("$ "), []
        else:
            shown.append(line)
    yield command, shown


def plain(text: str) -> list[str]:
    """Lines without what differs from run to run, and without empty ones."""
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def fits(shown: list[str], said: list[str]) -> bool:
    """Whether the output is what is shown, where `...` stands for any lines."""
    if not shown:
        return not said
    if shown[0] == ANYTHING:
        return any(fits(shown[1:], said[start:]) for start in range(len(said) + 1))
    return bool(said) and shown[0] == said[0] and fits(shown[1:], said[1:])


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {block.kind for block in blocks()} <= KNOWN_KINDS
    assert {block.kind for block in blocks() if block.paper == "README.md"} >= {"console", "python", "toml"}


@pytest.mark.parametrize(
    "paper",
    [
        *PAPERS,
        *("docs/adr/README.md", "docs/critique.md", "docs/images.md", "docs/network.md", "docs/streams.md"),
        "ARCHITECTURE.md",
    ],
)
def test_every_link_leads_to_a_file(paper: str) -> None:
    path = CHECKOUT / paper
    targets = [link for link in _LINK.findall(path.read_text()) if "://" not in link]
    assert [link for link in targets if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("paper", [*PAPERS, "CONTRIBUTING.md"])
def test_every_path_that_is_named_is_there(paper: str) -> None:
    text = (CHECKOUT / paper).read_text()
    named = set(re.findall(r"`((?:src|proto|script|examples|tests|docs)/[\w./-]*\w)`", text))
    named |= set(re.findall(r"\bscript/[a-z-]+", text))
    assert named
    assert [path for path in sorted(named) if not (CHECKOUT / path).exists()] == []


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.paper)
def test_every_configuration_is_accepted(block: Block) -> None:
    assert isinstance(config.parse(block.text), Settings)


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.paper)
def test_every_cni_configuration_is_accepted(block: Block) -> None:
    assert json.loads(block.text)
    assert cni.parse_network(block.text.encode()).name


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.paper)
def test_every_yaml_document_is_one(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


@pytest.mark.parametrize("block", blocks("ini"), ids=lambda block: block.paper)
def test_every_unit_starts_a_program_of_ours_with_flags_that_it_has(block: Block) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys are case-sensitive
    unit.read_string(block.text)
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "cribd"
    ours = str(Path(sys.executable).parent / "cribd")
    known = subprocess.run([ours, "--help"], capture_output=True, text=True, check=True).stdout
    assert [flag for flag in arguments if flag.startswith("--") and flag.split("=")[0] not in known] == []


@pytest.mark.root
@pytest.mark.system
def test_the_session_goes_as_it_is_shown(private_root: Path) -> None:
    demo = copy_demo(private_root)
    try:
        for block in blocks("console"):
            if block.paper == "README.md":
                for command, shown in steps(block):
                    _compare(demo, command.removeprefix("sudo "), shown)
    finally:
        down = demo.shell("script/run --down")
    assert down.returncode == 0, down.stdout
    assert not demo.data.exists()


@pytest.mark.root
@pytest.mark.system
def test_every_program_runs(private_root: Path) -> None:
    demo = copy_demo(private_root)
    try:
        up = demo.shell("script/run")
        assert up.returncode == 0, up.stdout
        for number, block in enumerate(blocks("python")):
            program = demo.checkout / f"program{number}.py"
            program.write_text(block.text)
            result = demo.shell(f"{shlex.quote(sys.executable)} -W error {program}")
            assert result.returncode == 0, result.stdout
            if "SyncClient" in block.text:
                assert re.fullmatch(r"web [\d.]+ 3\n", result.stdout)
        for block in blocks("console"):
            if block.paper != "README.md":
                for command, shown in steps(block):
                    _compare(demo, command.removeprefix("sudo "), shown)
    finally:
        down = demo.shell("script/run --down")
    assert down.returncode == 0, down.stdout


@pytest.fixture
def cribd_of_the_kind_shown(tmp_path: Path) -> Iterator[Cribd]:
    (shown,) = [block.text for block in blocks("python") if "KINDS[" in block.text]
    program = tmp_path / "cribd.py"
    program.write_text(f"{shown}\n\nfrom crib.daemon import main\n\nmain()\n")
    with running_cribd() as cribd:
        cribd.stop()
        cribd.program = (str(program),)
        without = cribd.config.read_text()
        cribd.config.write_text(f'{without}\n[handlers.crun]\n[handlers.any]\nkind = "first"\n')
        cribd.start()
        yield cribd
        cribd.config.write_text(without)  # no other cribd has that kind, and one wipes


@pytest.mark.root
@pytest.mark.system
async def test_the_kind_of_handler_that_is_shown_runs_pods(cribd_of_the_kind_shown: Cribd) -> None:
    async with cribd_of_the_kind_shown.story() as cri:
        info = await cri.call(cri.node.Info, InfoRequest())
        assert [(one.name, one.kind) for one in info.handlers] == [("crun", "oci"), ("any", "first")]
        assert Path(info.handlers[1].program).name in ("youki", "crun", "runc")
        pod = await pods.run_sandbox(cri.connection, cri.pod_config("shown"), "any")
        box = await cri.run_container(pod, "sleep", "1000")
        assert await cri.sh(box, "hostname") == "shown"


def _compare(demo: Demo, command: str, shown: list[str]) -> None:
    result = demo.shell(demo.adapt(command))
    expected, said = plain(demo.adapt("\n".join(shown))), plain(result.stdout)
    assert fits(expected, said), f"$ {command}\nshown:\n{expected}\nsaid:\n{said}"


@pytest.mark.skipif(shutil.which("mypy", path=str(Path(sys.executable).parent)) is None, reason="no mypy")
def test_every_program_is_typed(tmp_path: Path) -> None:
    files = []
    for number, block in enumerate(blocks("python")):
        files.append(tmp_path / f"program{number}.py")
        files[-1].write_text(block.text)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(CHECKOUT / "pyproject.toml")]
    result = subprocess.run([*mypy, *files], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
