"""What all parts of one handler of the kind `docker` share. The Engine need not be there yet."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

from crib.backends.docker.api import EngineApi
from crib.backends.docker.link import EngineLink
from crib.backends.environment import HandlerEnvironment, HandlerOpening
from crib.backends.failures import trying
from crib.backends.handler_notes import write_handler_note
from crib.backends.pods.opening import open_node
from crib.backends.runtime_probe import OCI_VERSION, find_program
from crib.host.cgroups import Cgroups, detect_layout
from crib.model.docker_settings import DockerSettings
from crib.model.errors import Broken
from crib.model.facts import NEW_FIELDS, HandlerFacts

ENGINE = "dockerd"
UNKNOWN_VERSION = "unknown"
OPEN_TIME = 1.0
"""Seconds that an opening waits for the Engine to say what it is; later it is asked again."""


@dataclass(slots=True, kw_only=True)
class DockerEnvironment(HandlerEnvironment):
    """With the Engine."""

    api: EngineApi
    link: EngineLink
    owner: str
    """What our containers in the Engine are labelled with."""
    catatonit: str = ""
    """Path of the program that pods' own containers run; empty where the handler is closed."""
    closed: str = ""
    """Why it runs nothing; empty if it does."""

    @property
    def docker(self) -> DockerSettings:
        """The administrator's settings for the Engine."""
        return self.options.docker

    async def unusable(self) -> str:
        """What keeps containers from being run now; empty if nothing. The facts go by what is found."""
        if self.closed:
            return self.closed
        problem = await self.link.asked()
        self._learn()
        return problem

    async def require(self) -> None:
        """Unavailable, or Broken, where nothing can be run now."""
        if self.closed:
            raise Broken(f"handler {self.facts.name} cannot be used: {self.closed}")
        await self.link.require()
        self._learn()

    def _learn(self) -> None:
        found = self.link.facts
        version = self.facts.version if found is None else found.version
        if version != self.facts.version:
            self.facts = replace(self.facts, version=version, monitor_version=version)


def closed_environment(opening: HandlerOpening, problem: str) -> DockerEnvironment:
    """Of a handler that could not be opened: enough to stop and remove what it made before."""
    facts = replace(_facts(opening), version="", problem=problem, retired=opening.retired)
    return _environment(opening, facts, problem)


async def open_environment(opening: HandlerOpening) -> DockerEnvironment:
    """Look for the Engine, which may come later; make the directories. Broken when a program is missing."""
    if opening.retired:
        return closed_environment(
            opening, "it is no longer configured, and looks only after what it has made"
        )
    with trying(f"handler {opening.name}"):
        catatonit = find_program(opening.settings.catatonit)
        node = await open_node(opening)
        write_handler_note(opening.paths, opening.name, opening.options)
    made = _environment(opening, _facts(opening))
    made.catatonit = catatonit
    made.default_seccomp = node.default_seccomp
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(OPEN_TIME):
            await made.unusable()
    return made


def _facts(opening: HandlerOpening) -> HandlerFacts:
    return HandlerFacts(
        opening.name,
        ENGINE,
        UNKNOWN_VERSION,
        OCI_VERSION,
        recursive_read_only=True,
        user_namespaces=False,
        idmapped_mounts=False,
        unknown_fields=NEW_FIELDS,
        monitor=ENGINE,
        monitor_version=UNKNOWN_VERSION,
        kind=opening.options.kind,
    )


def _environment(opening: HandlerOpening, facts: HandlerFacts, closed: str = "") -> DockerEnvironment:
    options = opening.options.docker
    api = EngineApi(options.socket, lambda: made.docker.timeout)
    made = DockerEnvironment(
        facts=facts,
        settings=opening.settings,
        paths=opening.paths,
        host=opening.host,
        cgroups=Cgroups(detect_layout()),
        api=api,
        link=EngineLink(opening.name, api, opening.settings.cgroup_driver),
        owner=f"{opening.paths.state}:{opening.name}",
        closed=closed,
        others=opening.others,
    )
    return made
