"""What an extension is given and what it may answer: all of it is stable (docs/extending.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 1
"""Of what extensions are given. An extension says in `CRIB_EXTENSION` which one it was written for."""
POD_VERBS = ("run_pod", "update_pod", "stop_pod", "remove_pod")
CONTAINER_VERBS = (
    "create_container",
    "start_container",
    "update_container",
    "stop_container",
    "remove_container",
)
IMAGE_VERBS = ("pull_image", "remove_image")
VERBS = POD_VERBS + CONTAINER_VERBS + IMAGE_VERBS
"""A lifecycle hook has functions `before_VERB` and `after_VERB` for those that it cares about."""
ENDING = frozenset(("stop_pod", "remove_pod", "stop_container", "remove_container", "remove_image"))
"""Verbs that no hook can refuse: a node must be able to get rid of what runs on it."""


class Refused(Exception):
    """Raised by a hook's `before_VERB`: the verb is not to happen. The message goes to the caller."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod sandbox, as a hook sees it. Environment and credentials are never told."""

    id: str
    namespace: str
    name: str
    uid: str
    attempt: int
    handler: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    hostname: str = ""
    host_network: bool = False
    privileged: bool = False
    addresses: tuple[str, ...] = ()
    error: str = ""
    """Given to `after_VERB` only: why the verb failed. Empty if it did not."""


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container, as a hook sees it. Environment, arguments and credentials are never told."""

    id: str
    name: str
    attempt: int
    image: str
    """As it was asked for."""
    image_id: str
    pod: PodView
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    privileged: bool = False
    mounts: tuple[tuple[str, str], ...] = ()
    """Paths of the host with where the container sees them."""
    memory_limit: int = 0
    """Bytes; 0: none."""
    error: str = ""
    """See PodView."""


@dataclass(frozen=True, slots=True)
class ImageView:
    """An image, as a hook sees it."""

    name: str
    """As it was asked for."""
    id: str = ""
    """Empty before a pull."""
    error: str = ""
    """See PodView."""


View = PodView | ContainerView | ImageView
