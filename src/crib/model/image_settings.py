"""What the administrator can set of images, in five parts: each goes whole to those who need it.

The parts are no tables of their own in a configuration file: their keys stand in `[images]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from crib.model.keys import PART, AtLeast, Form, Is, OneOf, Path, PathOrNone


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Who is asked for an image."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Registry host to base URLs tried in order before the registry itself."""
    insecure: tuple[str, ...] = ()
    """Registries spoken to over plain http."""
    hosts_dirs: tuple[Path, ...] = ("/etc/crib/certs.d",)
    """Directories with HOST/hosts.toml in containerd's layout; the first one that has HOST counts."""
    registries_conf: PathOrNone = ""
    """containers-registries.conf(5) to honour, with the .d directory beside it; empty: none."""
    auth_file: PathOrNone = "/etc/crib/auth.json"
    """Credentials for the whole node in docker's config format; it may be missing."""


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How layers are fetched, and the bounds that they have to keep."""

    parallel_layers: Annotated[int, AtLeast(1)] = 3
    """Layers of one image that are fetched at once."""
    parallel_ranges: Annotated[int, AtLeast(1)] = 3
    """Connections for one large layer, where the host serves ranges; 1 turns it off."""
    pull_linger: Annotated[float, AtLeast(0)] = 30.0
    """Seconds that a pull goes on after its last caller has gone."""
    stall_timeout: Annotated[float, AtLeast(0.1)] = 60.0
    """Seconds in which at least `stall_bytes` must come. Otherwise the next host is asked."""
    stall_bytes: Annotated[int, AtLeast(1)] = 64 << 10
    """See `stall_timeout`."""
    min_rate: Annotated[int, AtLeast(0)] = 8 << 10
    """Bytes a second that a host must bring on average, once `stall_timeout` is over; 0: no limit."""
    dead_host_time: Annotated[float, AtLeast(0)] = 60.0
    """Seconds for which a host that could not be reached is asked last."""
    bandwidth: Annotated[int, AtLeast(0)] = 0
    """Bytes a second that all pulls together may take; 0: no limit."""
    max_layer_bytes: Annotated[int, AtLeast(1)] = 64 << 30
    """Uncompressed size of one layer at most."""
    max_ratio: Annotated[int, AtLeast(1)] = 200
    """Uncompressed to compressed size at most (beyond the first 64 MiB)."""
    min_free: Annotated[int, AtLeast(0)] = 256 << 20
    """Bytes of the file system that pulls and imports leave free."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where layers lie, and the process that brings them there."""

    worker_user: str = "nobody"
    """Unprivileged user of the worker process."""
    worker_memory: Annotated[int, AtLeast(0)] = 1 << 30
    """Bytes of address space beyond what its libraries take that the worker may use; 0 sets no limit."""
    partial_time: Annotated[float, AtLeast(0)] = 24 * 3600.0
    """Seconds that the parts of an unfinished pull are kept to be resumed."""
    partial_bytes: Annotated[int, AtLeast(0)] = 20 << 30
    """Bytes of such parts at most."""
    block_size: Annotated[int, OneOf((0, 512, 4096))] = 0
    """512, 4096, or 0 to choose by the probe."""
    mount_method: Annotated[str, OneOf(("auto", "file", "loop", "directory"))] = "auto"
    """auto, file, loop or directory."""


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """What the node does with images by itself."""

    pinned: tuple[str, ...] = ()
    """Patterns of image names that are never collected as garbage."""
    prepull: tuple[Annotated[str, Is(Form.IMAGE)], ...] = ()
    """Images that are pulled when the daemon starts, if they are missing."""
    import_dir: PathOrNone = ""
    """Directory of archives that are imported when the daemon starts; empty: none."""
    gc_high: Annotated[int, AtLeast(0)] = 0
    """Percent of the file system in use at which unused images are removed; 0: never (a kubelet does it)."""
    gc_low: Annotated[int, AtLeast(0)] = 80
    """Percent down to which they are removed. The longest unused go first."""
    gc_min_age: Annotated[float, AtLeast(0)] = 120.0
    """Seconds that an image is kept at least after its last use."""


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """One rule of the image policy; the first one whose `match` fits an image decides."""

    match: Annotated[str, Is(Form.IMAGE_PATTERN)] = "*"
    """Pattern for the full name without tag and digest; `*` stands for any characters."""
    action: Annotated[str, OneOf(("accept", "reject", "digest", "signed"))] = "accept"
    """accept, reject, digest (the name must have one) or signed (by one of `keys`)."""
    keys: tuple[Path, ...] = ()
    """Files with public keys in PEM (cosign.pub)."""
    audit: bool = False
    """Only log what would be refused."""


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """Which images may be pulled and run."""

    policy: tuple[ImagePolicy, ...] = ()
    """Rules; the first one whose `match` fits an image decides. Each is a table:"""
    verifiers: tuple[Path, ...] = ()
    """Programs that judge every image that is pulled; each must accept it."""
    verifier_timeout: Annotated[float, AtLeast(0.1)] = 30.0
    """Seconds that one of them may take."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Pulls, imports and the store."""

    registries: Annotated[RegistrySettings, PART] = RegistrySettings()
    transfer: Annotated[TransferSettings, PART] = TransferSettings()
    store: Annotated[StoreSettings, PART] = StoreSettings()
    upkeep: Annotated[UpkeepSettings, PART] = UpkeepSettings()
    trust: Annotated[TrustSettings, PART] = TrustSettings()
