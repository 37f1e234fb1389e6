"""Volumes, pods and what is asked for them, for the tests of their verbs."""

from __future__ import annotations

from typing import Any

from crib.engine.volumes.making import VolumeOrder
from crib.engine.volumes.publishing import Published, WantedVolume
from crib.model.volumes import AccessMode, PodOfUse, Reclaim, VolumeName, VolumeSpec
from tests.fakes.world import World, bounded

ONE_POD = (AccessMode.READ_WRITE_ONCE_POD,)


def order(name: str = "data", reclaim: Reclaim | None = None, **spec: Any) -> VolumeOrder:
    return VolumeOrder(VolumeName("default", name), VolumeSpec(**{"kind": "local", **spec}), reclaim)


def pod(name: str = "web") -> PodOfUse:
    return PodOfUse(f"uid-{name}", "default", name, f"/pods/uid-{name}")


def wanted(name: str = "data", **changes: Any) -> WantedVolume:
    return WantedVolume(**{"volume": name, "name": name, "order": order(name), **changes})


async def published(world: World, of: str = "web", *volumes: WantedVolume) -> list[Published]:
    async with bounded():
        return list(await world.node.volumes.publish(pod(of), volumes or (wanted(),)))
