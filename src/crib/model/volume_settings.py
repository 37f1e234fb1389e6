"""What the administrator can set of volumes: classes, drivers and time limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from crib.model.keys import LIVE, AtLeast, Form, Is, OneOf, Path, PathOrNone

KINDS = ("local", "tmpfs", "image", "block", "csi")


@dataclass(frozen=True, slots=True)
class VolumeClass:
    """What a claim of this class becomes (storage.k8s.io/v1 StorageClass)."""

    kind: Annotated[str, OneOf(KINDS)] = "local"
    """local (a directory), tmpfs (memory), image (an image's files, read-only), block (a file or device) or
    csi (a CSI driver)."""
    driver: str = ""
    """With `csi`: one of `volumes.drivers`."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What the kind or the driver is told when it makes a volume."""
    fs_type: str = ""
    """File system that a volume is formatted with; empty: the kind's choice."""
    mount_options: tuple[str, ...] = ()
    reclaim: Annotated[str, OneOf(("Delete", "Retain"))] = "Delete"
    """Whether `crib volume prune` and the end of the owning pod take the volume: Delete, or Retain."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """By key, the file with a secret for the driver. It is read for each call, and never recorded."""


@dataclass(frozen=True, slots=True)
class VolumeDriver:
    """A CSI driver on this node."""

    socket: PathOrNone = ""
    """Its unix socket; empty: /var/lib/kubelet/plugins/NAME/csi.sock."""
    timeout: Annotated[float, AtLeast(0.1)] = 120.0
    """Seconds for one step of a volume: all calls of the driver that it takes, repeated ones among them."""
    pod_info: bool = False
    """Whether the driver is told name, namespace, uid and service account of the pod, as Kubernetes does with
    podInfoOnMount. Of inline volumes it always is."""


@dataclass(frozen=True, slots=True)
class VolumeSettings:
    """Volumes of pods that run without a kubelet."""

    default_class: Annotated[str, LIVE] = "local"
    """Class of claims that name none; empty: those are refused."""
    classes: Annotated[Mapping[Annotated[str, Is(Form.DOMAIN)], VolumeClass], LIVE] = field(
        default_factory=dict
    )
    """By name. The class `local` is there, unless it is made another one here."""
    drivers: Annotated[Mapping[Annotated[str, Is(Form.DOMAIN)], VolumeDriver], LIVE] = field(
        default_factory=dict
    )
    """CSI drivers, each by the name that it has itself."""
    timeout: Annotated[float, AtLeast(0.1), LIVE] = 120.0
    """Seconds for one step of the built-in kinds: making, staging, publishing, and what undoes them."""
    copy_timeout: Annotated[float, AtLeast(1), LIVE] = 4 * 3600.0
    """Seconds for an export, an import or a snapshot: they copy all files."""

    @property
    def all_classes(self) -> Mapping[str, VolumeClass]:
        """Those that are configured, and the built-in one."""
        return {"local": VolumeClass(), **self.classes}


def default_socket(driver: str) -> str:
    """Where a driver listens by the custom of Kubernetes."""
    return f"/var/lib/kubelet/plugins/{driver}/csi.sock"
