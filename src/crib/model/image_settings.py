"""What the administrator can set about images, in five parts. Each is passed on as a whole.

A configuration file has no tables for the parts: all of their keys are in `[images]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from crib.model.keys import LIVE, PART, AtLeast, Form, Is, OneOf, Path, PathOrNone


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Which hosts are asked for an image."""

    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Base URLs by registry host; they are tried in order before the registry itself."""
    insecure: tuple[str, ...] = ()
    """Registries that are contacted over plain HTTP."""
    hosts_dirs: tuple[Path, ...] = ("/etc/crib/certs.d",)
    """Directories with HOST/hosts.toml in containerd's layout. The first one that has HOST is used."""
    registries_conf: PathOrNone = ""
    """File as in containers-registries.conf(5); its .d directory is read too. Empty: none."""
    auth_file: PathOrNone = "/etc/crib/auth.json"
    """Credentials for the whole node in docker's config format; it may be missing."""


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How layers are fetched, and their limits."""

    parallel_layers: Annotated[int, AtLeast(1)] = 3
    """Layers of one image that are fetched at once."""
    parallel_ranges: Annotated[int, AtLeast(1)] = 3
    """Connections for one large layer if the host serves ranges; 1: no ranges."""
    pull_linger: Annotated[float, AtLeast(0)] = 30.0
    """Seconds that a pull continues after its last caller has gone."""
    stall_timeout: Annotated[float, AtLeast(0.1)] = 60.0
    """Seconds in which at least `stall_bytes` must arrive. Otherwise the next host is asked."""
    stall_bytes: Annotated[int, AtLeast(1)] = 64 << 10
    """See `stall_timeout`."""
    min_rate: Annotated[int, AtLeast(0)] = 8 << 10
    """Bytes per second that a host must deliver on average once `stall_timeout` is over; 0: no limit."""
    dead_host_time: Annotated[float, AtLeast(0)] = 60.0
    """Seconds for which a host that could not be reached is asked last."""
    bandwidth: Annotated[int, AtLeast(0)] = 0
    """Bytes per second for all pulls together; 0: no limit."""
    max_layer_bytes: Annotated[int, AtLeast(1)] = 64 << 30
    """Maximum uncompressed size of one layer."""
    max_ratio: Annotated[int, AtLeast(1)] = 200
    """Maximum ratio of uncompressed to compressed size, beyond the first 64 MiB."""
    min_free: Annotated[int, AtLeast(0)] = 256 << 20
    """Bytes that pulls and imports leave free on the file system."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How layers are stored and mounted, and the worker process that fetches them."""

    worker_user: str = "nobody"
    """Unprivileged user of the worker process."""
    worker_memory: Annotated[int, AtLeast(0)] = 1 << 30
    """Bytes of address space for the worker beyond what its libraries take; 0: no limit."""
    partial_time: Annotated[float, AtLeast(0), LIVE] = 24 * 3600.0
    """Seconds for which the parts of an unfinished pull are kept, so that it can be resumed."""
    partial_bytes: Annotated[int, AtLeast(0), LIVE] = 20 << 30
    """Maximum bytes of such parts."""
    block_size: Annotated[int, OneOf((0, 512, 4096))] = 0
    """Block size of layers in bytes: 512, 4096, or 0 to choose by a probe."""
    mount_method: Annotated[str, OneOf(("auto", "file", "loop", "directory"))] = "auto"
    """How layers are mounted: auto, file, loop or directory."""
    layer_store: Annotated[str, Is(Form.HANDLER, or_empty=True)] = ""
    """Entry point of crib.layer_stores that keeps layers; empty: crib itself."""


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """What the node does with images on its own."""

    pinned: Annotated[tuple[str, ...], LIVE] = ()
    """Patterns of image names that are never collected as garbage."""
    prepull: tuple[Annotated[str, Is(Form.IMAGE)], ...] = ()
    """Images that are pulled when the daemon starts, if they are missing."""
    import_dir: PathOrNone = ""
    """Directory of archives that are imported when the daemon starts; empty: none."""
    gc_high: Annotated[int, AtLeast(0), LIVE] = 0
    """Percentage of the file system in use that starts removal of unused images; 0: never."""
    gc_low: Annotated[int, AtLeast(0), LIVE] = 80
    """Percentage at which their removal stops. The longest unused go first."""
    gc_min_age: Annotated[float, AtLeast(0), LIVE] = 120.0
    """Seconds for which an image is kept after its last use."""


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """One rule of the image policy. The first one whose `match` fits an image decides."""

    match: Annotated[str, Is(Form.IMAGE_PATTERN)] = "*"
    """Pattern for the full name without tag and digest; `*` matches any characters."""
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
    """Rules. The first one whose `match` fits an image decides. Each is a table:"""
    verifiers: tuple[Path, ...] = ()
    """Programs that judge each image that is pulled; all must accept it."""
    verifier_extensions: tuple[Annotated[str, Is(Form.HANDLER)], ...] = ()
    """Entry points of crib.image_verifiers, asked after the programs; all must accept the image."""
    verifier_timeout: Annotated[float, AtLeast(0.1)] = 30.0
    """Seconds for one of them."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Pulls, imports and the store."""

    registries: Annotated[RegistrySettings, PART, LIVE] = RegistrySettings()
    transfer: Annotated[TransferSettings, PART, LIVE] = TransferSettings()
    store: Annotated[StoreSettings, PART] = StoreSettings()
    upkeep: Annotated[UpkeepSettings, PART] = UpkeepSettings()
    trust: Annotated[TrustSettings, PART, LIVE] = TrustSettings()
