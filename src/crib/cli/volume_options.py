"""The arguments of `crib volume`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from crib.cli.forms import DocumentOutput, Format, ListOutput, Output
from crib.cli.image_options import DryRun, Yes

_NAME = "NAME, NAMESPACE/NAME or the beginning of an id; without a namespace it is default."
_Volume = Annotated[str, typer.Argument(metavar="VOLUME", help=_NAME)]
_Volumes = Annotated[list[str], typer.Argument(metavar="VOLUME", help=_NAME)]
_SomeVolumes = Annotated[
    list[str] | None, typer.Argument(metavar="VOLUME", help="As crib volume ls lists them. Default: all.")
]
_New = Annotated[str, typer.Argument(metavar="NAME", help="NAME or NAMESPACE/NAME.")]
_NewOnes = Annotated[list[str], typer.Argument(metavar="NAME", help="NAME or NAMESPACE/NAME.")]
_Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Only those of this namespace.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only names, one a line.")]


class VolumeKindName(StrEnum):
    LOCAL = "local"
    TMPFS = "tmpfs"
    IMAGE = "image"
    BLOCK = "block"
    CSI = "csi"


class AccessModeName(StrEnum):
    ONCE = "ReadWriteOnce"
    ONE_POD = "ReadWriteOncePod"
    READ_ONLY = "ReadOnlyMany"
    MANY = "ReadWriteMany"


class ReclaimName(StrEnum):
    DELETE = "Delete"
    RETAIN = "Retain"


@dataclass(frozen=True)
class VolumeListOptions:
    namespace: _Namespace = ""
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only those with it; may be repeated."),
    ] = None
    pod: Annotated[str, typer.Option("--pod", help="Only those that this pod uses.")] = ""
    output: ListOutput = Format.TABLE
    quiet: _Quiet = False


@dataclass(frozen=True)
class VolumeSpecOptions:
    """What a new volume is to be."""

    storage_class: Annotated[
        str,
        typer.Option(
            "--class", metavar="CLASS", help="A class of the configuration. Default: its default one."
        ),
    ] = ""
    kind: Annotated[
        VolumeKindName | None, typer.Option("--kind", help="Instead of a class: what it is made of.")
    ] = None
    size: Annotated[
        str,
        typer.Option(
            "--size", metavar="QUANTITY", help="At least so much, for example 10Gi; a limit where possible."
        ),
    ] = ""
    modes: Annotated[
        list[AccessModeName] | None,
        typer.Option(
            "--access-mode", help="Who may use it at once; may be repeated. Default: ReadWriteOnce."
        ),
    ] = None
    block: Annotated[bool, typer.Option("--block", help="A raw device instead of a directory.")] = False
    fs_type: Annotated[
        str, typer.Option("--fs-type", metavar="TYPE", help="The file system that it is formatted with.")
    ] = ""
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="SOURCE",
            help="What is there already: an image, a file or device (kind block), a driver's handle (csi).",
        ),
    ] = ""
    driver: Annotated[str, typer.Option("--driver", help="The CSI driver, with --kind csi.")] = ""
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="KEY=VALUE", help="For the kind or driver; may be repeated."),
    ] = None
    mount_options: Annotated[
        list[str] | None,
        typer.Option("--mount-option", metavar="OPTION", help="For its file system; may be repeated."),
    ] = None
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="KEY=FILE",
            help="For the driver, read from this file at each call and never kept; may be repeated.",
        ),
    ] = None
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="Give it this label; may be repeated."),
    ] = None
    reclaim: Annotated[
        ReclaimName | None,
        typer.Option("--reclaim", help="Whether crib volume prune may take it. Default: as its class says."),
    ] = None


@dataclass(frozen=True)
class _NewVolumes:
    volumes: _NewOnes


@dataclass(frozen=True)
class VolumeCreateOptions(VolumeSpecOptions, _NewVolumes):
    snapshot: Annotated[
        str, typer.Option("--snapshot", metavar="SNAPSHOT", help="The snapshot that it begins as.")
    ] = ""
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="VOLUME",
            help="The volume that it begins as, with its kind and size; pods may use that meanwhile.",
        ),
    ] = ""


@dataclass(frozen=True)
class _Imported:
    volume: _New
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A tar archive or a directory, as the daemon sees it.")
    ]


@dataclass(frozen=True)
class VolumeImportOptions(VolumeSpecOptions, _Imported):
    """What is imported, and what the new volume is to be."""


@dataclass(frozen=True)
class VolumeInspectOptions:
    volumes: _Volumes
    output: DocumentOutput = Format.YAML


@dataclass(frozen=True)
class VolumeRemoveOptions:
    volumes: _Volumes


@dataclass(frozen=True)
class VolumePruneOptions:
    every: Annotated[
        bool,
        typer.Option("--all", "-a", help="Every volume that no pod uses, unless its reclaim says Retain."),
    ] = False
    dry_run: DryRun = False
    yes: Yes = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class VolumeExportOptions:
    volume: _Volume
    path: Annotated[
        str, typer.Argument(metavar="ARCHIVE", help="The tar archive to write, as the daemon sees it.")
    ]


@dataclass(frozen=True)
class VolumeStatsOptions:
    volumes: _SomeVolumes = None
    output: Output = Format.TABLE


@dataclass(frozen=True)
class VolumeResizeOptions:
    volume: _Volume
    size: Annotated[str, typer.Argument(metavar="QUANTITY", help="For example 20Gi; not less than it has.")]


@dataclass(frozen=True)
class VolumeCheckOptions:
    volumes: _SomeVolumes = None
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be.")] = False
    output: Output = Format.TABLE


@dataclass(frozen=True)
class SnapshotCreateOptions:
    volume: _Volume
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the snapshot, in the volume's namespace.")]


@dataclass(frozen=True)
class SnapshotListOptions:
    namespace: _Namespace = ""
    output: ListOutput = Format.TABLE
    quiet: _Quiet = False


@dataclass(frozen=True)
class VolumeDriversOptions:
    output: ListOutput = Format.TABLE
    quiet: _Quiet = False


@dataclass(frozen=True)
class SnapshotRemoveOptions:
    snapshots: Annotated[list[str], typer.Argument(metavar="SNAPSHOT", help=_NAME)]
