"""The steps of a volume's life, by the call that each leads to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from tests.csi_lab import VolumeLife, volume_use

USE = volume_use()
UP: list[tuple[str, Callable[[VolumeLife], Coroutine[Any, Any, Any]]]] = [
    ("CreateVolume", lambda life: life.create()),
    ("ControllerPublishVolume", lambda life: life.stage()),
    ("NodeStageVolume", lambda life: life.stage()),
    ("NodePublishVolume", lambda life: life.publish(USE)),
]
DOWN: list[tuple[str, Callable[[VolumeLife], Coroutine[Any, Any, Any]]]] = [
    ("NodeUnpublishVolume", lambda life: life.unpublish(USE)),
    ("NodeUnstageVolume", lambda life: life.unstage()),
    ("ControllerUnpublishVolume", lambda life: life.unstage()),
    ("DeleteVolume", lambda life: life.delete()),
]
STEPS = [call for call, _ in (*UP, *DOWN)]


async def up_to(life: VolumeLife, call: str) -> None:
    """All steps before this call."""
    for name, step in (*UP, *DOWN):
        if name == call or (name, call) in {
            ("ControllerPublishVolume", "NodeStageVolume"),
            ("NodeUnstageVolume", "ControllerUnpublishVolume"),
        }:
            return
        if name not in {"NodeStageVolume", "ControllerUnpublishVolume"}:
            await step(life)


def step(call: str) -> Callable[[VolumeLife], Coroutine[Any, Any, Any]]:
    return dict((*UP, *DOWN))[call]
