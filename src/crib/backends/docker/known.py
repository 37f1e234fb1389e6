"""Our containers in the Engine: asked for by name, and never mistaken for somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crib.backends.docker.api import EngineCall
from crib.backends.docker.environment import DockerEnvironment
from crib.backends.docker.nouns import (
    LABEL_CONTAINER,
    LABEL_OWNER,
    LABEL_SANDBOX,
    EngineContainer,
    engine_name,
    labels_of,
    read_container,
)
from crib.model.errors import Broken, NotFound


class KnownContainers:
    """Of one handler. `name` is the id here, of a container or a pod."""

    def __init__(self, environment: DockerEnvironment) -> None:
        self._env = environment

    async def find(self, name: str) -> EngineContainer | None:
        """As it is now; None when there is none. Broken when one of that name is not ours."""
        try:
            found = await self._env.api.ask(
                EngineCall(f"looking at container {name}", "GET", f"/containers/{engine_name(name)}/json")
            )
        except NotFound:
            return None
        container = read_container(found)
        if container.owner != self._env.owner:
            owner = f"of {container.owner}" if container.owner else "that crib has not made"
            raise Broken(f"the Engine has a container {engine_name(name)} {owner}: it is left alone")
        return container

    async def create(self, name: str, body: Mapping[str, Any]) -> str:
        """The Engine's id. NotFound when its image is gone."""
        call = EngineCall(
            f"create of container {name}",
            "POST",
            "/containers/create",
            {"name": engine_name(name)},
            body,
            limit=self._env.settings.verb_timeout,
        )
        return str((await self._env.api.ask(call))["Id"])

    async def start(self, name: str) -> None:
        """Returns when its first process is there, or says in the runtime's words why it is not."""
        limit = self._env.settings.verb_timeout
        path = f"/containers/{engine_name(name)}/start"
        await self._env.api.ask(EngineCall(f"start of container {name}", "POST", path, limit=limit))

    async def remove(self, name: str) -> None:
        """Kill and remove it; safe to repeat."""
        if await self.find(name) is None:
            return
        limit = self._env.settings.verb_timeout
        call = EngineCall(
            f"delete of container {name}",
            "DELETE",
            f"/containers/{engine_name(name)}",
            {"force": "1", "v": "1"},
            limit=limit,
        )
        try:
            await self._env.api.ask(call)
        except NotFound:
            return

    async def all(self) -> Mapping[str, bool]:
        """All of ours by their ids here, and whether each is a pod's own."""
        query = {"all": "1", "filters": {"label": [f"{LABEL_OWNER}={self._env.owner}"]}}
        listed = await self._env.api.ask(EngineCall("listing containers", "GET", "/containers/json", query))
        found = {}
        for one in listed or ():
            labels = labels_of(one)
            if name := labels.get(LABEL_CONTAINER) or labels.get(LABEL_SANDBOX):
                found[name] = LABEL_CONTAINER not in labels
        return found

    async def containers(self) -> Mapping[str, str]:
        """Those of ours that are no pod's own, with the Engine's word for the state of each."""
        query = {"all": "1", "filters": {"label": [f"{LABEL_OWNER}={self._env.owner}", LABEL_CONTAINER]}}
        listed = await self._env.api.ask(EngineCall("listing containers", "GET", "/containers/json", query))
        return {labels_of(one)[LABEL_CONTAINER]: str(one.get("State") or "") for one in listed or ()}

    def labels(self, **ours: str) -> dict[str, str]:
        """What one of ours is labelled with, beside `ours`."""
        return {LABEL_OWNER: self._env.owner, **ours}
