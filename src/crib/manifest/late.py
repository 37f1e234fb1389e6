"""What a manifest leaves open until its sandbox runs: the pod's own addresses.

A plan has a mark where an address will be. A mark holds a zero byte, which no manifest can hold, so that no
text of a person is taken for one. `crib.client.workloads` fills them in before it creates a container.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.manifest.plan import ContainerPlan

POD_IP = "\0pod-ip\0"
POD_IPS = "\0pod-ips\0"
SHOWN = ("<pod-ip>",)
"""Stands for the addresses where a plan is shown that is not carried out."""


def filled_text(text: str, addresses: Sequence[str]) -> str:
    """The text with the pod's addresses, its first one first."""
    return text.replace(POD_IPS, ",".join(addresses)).replace(POD_IP, addresses[0] if addresses else "")


def waits_for_address(plan: ContainerPlan) -> bool:
    """Whether a container cannot be created before the pod's addresses are known."""
    config = plan.config
    inside = (*(part.inside for part in plan.sub_paths), *(mount.image_sub_path for mount in config.mounts))
    texts = (*config.command, *config.args, *inside)
    return any("\0" in text for text in texts) or any(b"\0" in env.value for env in config.envs)


def filled(plan: ContainerPlan, addresses: Sequence[str]) -> ContainerPlan:
    """The container with the pod's addresses; itself when it needs none."""
    if not waits_for_address(plan):
        return plan
    config = type(plan.config)()
    config.CopyFrom(plan.config)
    for words in (config.command, config.args):
        words[:] = [filled_text(word, addresses) for word in words]
    for env in config.envs:
        text = env.value.decode("utf-8", "surrogateescape")
        env.value = filled_text(text, addresses).encode("utf-8", "surrogateescape")
    for mount in config.mounts:
        mount.image_sub_path = filled_text(mount.image_sub_path, addresses)
    parts = tuple(replace(part, inside=filled_text(part.inside, addresses)) for part in plan.sub_paths)
    return replace(plan, config=config, sub_paths=parts)
