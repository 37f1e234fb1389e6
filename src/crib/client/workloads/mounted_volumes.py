"""Which volume of the runtime is behind a container's mount or device: by field of its configuration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crib.client import attempts
from crib.client.workloads import pod_volumes
from crib.client.workloads.sub_paths import PART
from crib.manifest.late import volume_mark

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crib.client.connection import Connection
    from crib.manifest.plan import ContainerPlan, Dirs, PodPlan
    from crib.stubs.runtime.v1.api_pb2 import ContainerConfig


def planned(plan: PodPlan, container: ContainerPlan) -> dict[str, str]:
    """NAMESPACE/NAME by field (`mounts[0]`), of a plan that is not carried out."""
    labels = {volume_mark(one.name): one.claim.label for one in plan.volumes if one.claim is not None}
    parts = {f"mounts[{part.mount}]": part.volume for part in container.sub_paths}
    return _named({**_host_paths(container.config), **parts}, labels)


async def mounted(connection: Connection, container_id: str, uid: str, dirs: Dirs) -> dict[str, str]:
    """The same of a container that is there; nothing for a pod without volumes of the runtime."""
    attached = await pod_volumes.attached(connection, dirs, uid)
    if not attached:
        return {}
    config = await attempts.container_config(connection, container_id)
    labels = {path: f"{one.namespace}/{one.name}" for path, (one, _) in attached.items()}
    return _named({field: _whole(path) for field, path in _host_paths(config).items()}, labels)


def _host_paths(config: ContainerConfig) -> dict[str, str]:
    mounts = {f"mounts[{place}]": mount.host_path for place, mount in enumerate(config.mounts)}
    devices = {f"devices[{place}]": device.host_path for place, device in enumerate(config.devices)}
    return mounts | devices


def _whole(path: str) -> str:
    """The volume that a bound part is of."""
    link = f"{path}.source"
    return os.readlink(link).partition(PART)[0] if os.path.islink(link) else path


def _named(paths: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    return {field: labels[path] for field, path in paths.items() if path in labels}
