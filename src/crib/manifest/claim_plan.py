"""Volumes of the runtime that pods use, as manifests ask for them.

A claim, an ephemeral volume, an inline `csi` volume and an `emptyDir` of limited size are the same thing to
crib: a volume with a name, made for the first pod that asks for it. All but claims go with their pod.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """What a new volume holds from the beginning: what a snapshot or another volume of its namespace does.

    `taken_of`: the claim of which the snapshot is taken if it is not there yet; empty: it has to be there.
    """

    is_snapshot: bool
    name: str
    taken_of: str = ""


@dataclass(frozen=True, slots=True)
class DriverPlan:
    """A volume of a CSI driver. `handle` is what the driver calls one that is there; empty: it is inline."""

    driver: str
    handle: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class ClaimSpec:
    """What is asked for. `storage_class` is one of the configuration; empty: `kind`, or the default class.

    `size` in bytes, 0: it does not matter. `device` is a file or device of the host that is there already.
    """

    kind: str = ""
    storage_class: str = ""
    size: int = 0
    access_modes: tuple[str, ...] = ()
    block: bool = False
    source: ClaimSource | None = None
    driver: DriverPlan | None = None
    device: str = ""
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """A volume of the runtime. `with_pod`: it is the pod's own, and goes when the pod is removed.

    `is_described`: a manifest says what it is. Otherwise the volume of that name will do, whatever it is.
    """

    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...] = ()
    spec: ClaimSpec = field(default_factory=ClaimSpec)
    with_pod: bool = False
    is_described: bool = True

    @property
    def label(self) -> str:
        """As the volume is called: NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"
