"""What may come next on a command line, for the shells' scripts (completion_commands).

Commands, options and choices come from the commands themselves, and so do the kinds of values: an argument
whose metavar is POD is completed with the pods of the runtime. A runtime that does not answer in time adds
nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crib.cli.command_help import choices_of, summary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from crib.client import Connection

LIMIT = 1.0
"""Seconds for an answer: a person waits for it between two keys."""
LAST_RESORT = 10.0
"""Seconds after which the program is ended, whatever hangs: the shell gets its prompt back."""
FILES = ":files"
"""A line that asks the shell to complete names of files."""
_FILE_WORDS = {"MANIFEST", "FILE", "PATH", "ARCHIVE", "DIRECTORY", "SOURCE", "DESTINATION"}
_BY_OPTION = {
    "--namespace": "NAMESPACE",
    "--container": "CONTAINER OF",
    "--handler": "HANDLER",
    "--pod": "POD",
}
"""What the values of options are, whose metavar does not say it."""
_OF_RUNTIME = {"POD", "CONTAINER", "IMAGE", "HANDLER", "NAMESPACE", "CONTAINER OF", "VOLUME", "SNAPSHOT"}


@dataclass(slots=True)
class TypedLine:
    """What was typed so far, read as the program would."""

    command: Any
    last: str
    names: list[str] = field(default_factory=list)
    """Arguments before the last word."""
    values: dict[str, str] = field(default_factory=dict)
    """Of options, by the option's long name."""
    waiting: Any = None
    """The option whose value the last word is."""
    only_names: bool = False
    """After --."""


def answer(words: Sequence[str]) -> None:
    """Print a line for each thing that may stand for the last of the words: the thing, a tab, what it is."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LAST_RESORT)
    from typer.main import get_command

    from crib.cli.app import app

    line = read(get_command(app), [*words] or [""])
    lines = [f"{value}\t{text}".rstrip("\t") for value, text in candidates(line)]
    sys.stdout.write("".join(f"{one}\n" for one in dict.fromkeys(lines)))


def read(root: Any, words: Sequence[str]) -> TypedLine:
    """Commands, options and arguments in their order. What nobody knows is passed over."""
    line = TypedLine(root, words[-1])
    for word in words[:-1]:
        if line.waiting is not None:
            line.values[_long(line.waiting)] = word
            line.waiting = None
        elif line.only_names:
            line.names.append(word)
        elif word == "--":
            line.only_names = True
        elif word.startswith("-") and word != "-":
            name, equals, value = word.partition("=")
            option = _option(line.command, name)
            if option is not None and not option.is_flag:
                if equals:
                    line.values[_long(option)] = value
                else:
                    line.waiting = option
        elif not line.names and word in getattr(line.command, "commands", {}):
            line.command = line.command.commands[word]
        elif word != "help":
            line.names.append(word)
    return line


def _option(command: Any, name: str) -> Any:
    return next((one for one in command.params if name in (*one.opts, *one.secondary_opts)), None)


def _long(option: Any) -> str:
    return str(max(option.opts, key=len))


def candidates(line: TypedLine) -> Iterator[tuple[str, str]]:
    """Each with what it is."""
    last = line.last
    if line.waiting is not None:
        yield from _fitting(values_of(line.waiting, line), last)
    elif last.startswith("-") and not line.only_names:
        name, equals, begun = last.partition("=")
        option = _option(line.command, name)
        if equals and option is not None:
            line.last = begun
            found = _fitting(values_of(option, line), begun)
            yield from ((f"{name}={value}", text) for value, text in found if value != FILES)
        else:
            yield from _fitting(_options(line.command), last)
    elif hasattr(line.command, "commands") and not line.names:
        commands = line.command.commands.items()
        yield from _fitting(
            ((name, summary(one.help or "")) for name, one in commands if not one.hidden), last
        )
        yield from _fitting([("help", "Show the help of a command.")], last)
    else:
        arguments = [one for one in line.command.params if one.param_type_name == "argument"]
        if arguments:
            place = min(len(line.names), len(arguments) - 1)
            if place == len(line.names) or arguments[place].nargs != 1:
                yield from _fitting(values_of(arguments[place], line), last)


def _fitting(found: Any, begun: str) -> Iterator[tuple[str, str]]:
    return ((value, text) for value, text in found if value == FILES or value.startswith(begun))


def _options(command: Any) -> Iterator[tuple[str, str]]:
    for option in command.params:
        if option.param_type_name == "option" and not option.hidden:
            for name in (*option.opts, *option.secondary_opts):
                if name.startswith("--"):
                    yield name, summary(option.help or "")
    yield "--help", "Show this help and exit."


def values_of(param: Any, line: TypedLine) -> Iterator[tuple[str, str]]:
    """What a person may give: choices, or what the runtime has of the kind that its metavar names."""
    for choice in choices_of(param):
        yield choice, ""
    metavar = str(param.metavar or "").strip("[]").removesuffix("...")
    if metavar == "FORM":
        forms = str(param.help).partition(": ")[2].rstrip(".").split(", ")
        yield from ((form.partition("=")[0] + "=" * ("=" in form), "") for form in forms)
        return
    kinds = set(metavar.split("|"))
    named = {_BY_OPTION[name] for name in param.opts if name in _BY_OPTION}
    if kinds & _FILE_WORDS:
        yield FILES, ""
    yield from _of_runtime(kinds | named, line)


def _of_runtime(kinds: set[str], line: TypedLine) -> Iterator[tuple[str, str]]:
    if not kinds & _OF_RUNTIME:
        return
    import asyncio

    from crib.client import ClientError

    try:
        yield from asyncio.run(asyncio.wait_for(_asked(kinds, line), LIMIT))
    except (ClientError, TimeoutError, OSError):
        return  # what cannot be had is not offered, and nothing is said in the middle of a person's typing


async def _asked(kinds: set[str], line: TypedLine) -> list[tuple[str, str]]:
    from crib.client import Connection

    endpoint = line.values.get("--endpoint") or os.environ.get("CRIB_ENDPOINT") or None
    async with Connection(endpoint, timeout=LIMIT) as connection:
        found: list[tuple[str, str]] = []
        if kinds & {"POD", "NAMESPACE"}:
            found += await _pods(connection, kinds, line.last)
        if "CONTAINER OF" in kinds and line.names:
            found += await _containers_of(connection, line.names[0])
        if "CONTAINER" in kinds and line.last:
            found += await _container_ids(connection)
        if "IMAGE" in kinds:
            found += await _images(connection)
        if "HANDLER" in kinds:
            found += await _handlers(connection)
        if kinds & {"VOLUME", "SNAPSHOT"}:
            found += await _volumes(connection, kinds, line.last)
        return found


async def _pods(connection: Connection, kinds: set[str], begun: str) -> list[tuple[str, str]]:
    from crib.client import lookup
    from crib.stubs.runtime.v1.api_pb2 import SANDBOX_READY

    pods = await lookup.pods(connection)
    if "POD" not in kinds:
        return [(namespace, "") for namespace in sorted({pod.metadata.namespace for pod in pods})]
    names = [pod.metadata.name for pod in pods]
    found = []
    for pod in pods:
        namespace, name = pod.metadata.namespace, pod.metadata.name
        is_plain = names.count(name) == 1 and "/" not in begun
        state = "Ready" if pod.state == SANDBOX_READY else "NotReady"
        found.append((name if is_plain else f"{namespace}/{name}", f"pod in {namespace}, {state}"))
    return found


async def _containers_of(connection: Connection, name: str) -> list[tuple[str, str]]:
    from crib.client import lookup

    pod = await lookup.find_pod(connection, name)
    containers = await lookup.containers(connection, pod.id)
    return [(one.metadata.name, f"container of {name}") for one in containers]


async def _container_ids(connection: Connection) -> list[tuple[str, str]]:
    from crib.client import lookup

    return [(one.id[:12], f"container {one.metadata.name}") for one in await lookup.containers(connection)]


async def _images(connection: Connection) -> list[tuple[str, str]]:
    from crib.client import images

    return [(name, "") for one in await images.list_images(connection) for name in one.repo_tags]


async def _volumes(connection: Connection, kinds: set[str], begun: str) -> list[tuple[str, str]]:
    from crib.client import volumes

    if "SNAPSHOT" in kinds:
        taken = [one async for one in volumes.list_snapshots(connection)]
        named = [(one.namespace, one.name, f"snapshot of {one.volume_name}") for one in taken]
    else:
        listed = [one async for one in volumes.list_volumes(connection)]
        named = [(one.namespace, one.name, f"volume, {one.spec.kind}") for one in listed]
    return [
        (name if namespace == "default" and "/" not in begun else f"{namespace}/{name}", text)
        for namespace, name, text in named
    ]


async def _handlers(connection: Connection) -> list[tuple[str, str]]:
    from crib.stubs.runtime.v1.api_pb2 import StatusRequest

    reply = await connection.call(connection.runtime.Status, StatusRequest())
    return [(one.name, "") for one in reply.runtime_handlers if one.name]
