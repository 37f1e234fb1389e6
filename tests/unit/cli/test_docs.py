"""Every command line of `crib` in the docs is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from crib.cli.app import app

DOCS = Path(__file__).parents[3] / "docs"
PAGES = (
    "configuration",
    "kubeadm",
    "k3s",
    "no-kubelet",
    "from-containerd",
    "from-cri-o",
    "upgrade",
    "uninstall",
)
_LINE = re.compile(r"^(?: {4}|\$ )((?:[A-Z_]+=\S+ )*crib .*)$", re.MULTILINE)
_SHELL = re.compile(r"\s+#.*$|\s*>\S+|\s*<\S+")


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for line in _LINE.findall((DOCS / f"{page}.md").read_text()):
            for part in re.split(r"&&|\|\|?|;", _SHELL.sub("", line)):
                if part.strip().startswith("crib "):
                    found.append((page, part.strip()))
    return found


def test_there_are_some_on_every_page() -> None:
    assert {page for page, _ in command_lines()} == set(PAGES)


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_it_names_a_command_and_options_that_there_are(page: str, line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    context = click.Context(command, info_name="crib")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(context, words[0])
        assert inner is not None, f"{page}: {line}"
        context = click.Context(inner, info_name=words.pop(0), parent=context)
        command = inner
    command.make_parser(context).parse_args(words)
