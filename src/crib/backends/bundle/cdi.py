"""CDI devices: found by name in the directories of CDI specs, and made into edits of the container's spec."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from crib.backends.bundle.spec_files import FoundFile, SpecFiles
from crib.backends.failures import trying
from crib.model.container import ContainerConfig
from crib.model.edits import AddedDevice, AddedHook, AddedMount, ContainerEdits, RdtChange
from crib.model.errors import InvalidRequest
from crib.wire import cdi

_FIELD = "CDI_devices"
_MAX_ASKED = 1000


@dataclass(frozen=True, slots=True)
class _Known:
    """One device: where it is written down, and what it brings."""

    path: str
    common: cdi.Edits
    own: cdi.Edits


class CdiRegistry:
    """The CDI devices of this host; see setting `cdi_spec_dirs`. Blocks."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._files = SpecFiles(
            directories,
            (".json", ".yaml"),
            lambda path, data: cdi.decode(data, yaml=path.endswith(".yaml")),
        )

    def edits(self, config: ContainerConfig) -> tuple[ContainerEdits, ...]:
        """What each of the container's devices brings; InvalidRequest names one that is not available.

        What a file brings for all of its devices comes with the first of them.
        """
        return self._edits(dict(asked_for(config)))

    def with_devices(self, edits: ContainerEdits) -> ContainerEdits:
        """The edits, with what the devices bring that they name; InvalidRequest as above."""
        if not edits.cdi_devices:
            return edits
        asked = dict.fromkeys(edits.cdi_devices, f"{edits.origin}: {_FIELD}")
        return replace(edits, injected=self._edits(asked))

    def _edits(self, asked: Mapping[str, str]) -> tuple[ContainerEdits, ...]:
        """Of devices by their names, each with the field that names it."""
        if not asked:
            return ()
        if len(asked) > _MAX_ASKED:
            raise InvalidRequest(f"{len(asked)} devices are more than {_MAX_ASKED}", field=_FIELD)
        files = self._files.read()
        chosen = [self._find(name, field, files) for name, field in asked.items()]
        found: list[ContainerEdits] = []
        seen: set[str] = set()
        for (name, field), known in zip(asked.items(), chosen, strict=True):
            if known.path not in seen:
                seen.add(known.path)
                found.append(_edits(name, field, known.common))
            found.append(_edits(name, field, known.own))
        return tuple(found)

    def _find(self, name: str, field: str, files: Sequence[FoundFile[cdi.Document]]) -> _Known:
        """The device of the last directory that has it; twice in one directory is a conflict."""
        kind, device = _split(name, field)
        places: dict[str, list[_Known]] = {}
        for file in files:
            document = file.content
            if document is None or document.kind != kind:
                continue
            places.setdefault(os.path.dirname(file.path), []).extend(
                _Known(file.path, document.container_edits, known.container_edits)
                for known in document.devices
                if known.name == device
            )
        found = [known for known in places.values() if known]
        if not found:
            raise InvalidRequest(self._missing(name, files), field=field)
        if len(found[-1]) > 1:
            paths = " and ".join(known.path for known in found[-1])
            raise InvalidRequest(f"CDI device {name} is in {paths}: which one is meant?", field=field)
        return found[-1][0]

    def _missing(self, name: str, files: Sequence[FoundFile[cdi.Document]]) -> str:
        where = ", ".join(self._files.directories) or "no directory (cdi_spec_dirs is empty)"
        broken = "; ".join(f"{file.path}: {file.problem}" for file in files if file.problem)
        also = f"; not readable there: {broken}" if broken else ""
        return f"CDI device {name} is not in {where}{also}"


def asked_for(config: ContainerConfig) -> Iterator[tuple[str, str]]:
    """Qualified names and the field of each: `CDI_devices`, then the container's cdi.k8s.io annotations."""
    for position, name in enumerate(config.cdi_devices):
        yield name, f"{_FIELD}[{position}]"
    for key, value in sorted(config.annotations.items()):
        if key.startswith(cdi.ANNOTATION):
            for name in value.split(","):
                yield name.strip(), f"annotations[{key}]"


def _split(name: str, field: str) -> tuple[str, str]:
    try:
        return cdi.split_name(name)
    except ValueError as error:
        raise InvalidRequest(f"CDI device {error}", field=field) from error


def _edits(name: str, field: str, edits: cdi.Edits) -> ContainerEdits:
    variables = (entry.partition("=") for entry in edits.env)
    return ContainerEdits(
        origin=f"CDI {name}",
        env=tuple((key, value) for key, _, value in variables),
        devices=tuple(_node(node, name, field) for node in edits.device_nodes),
        mounts=tuple(_mount(mount, name, field) for mount in edits.mounts),
        hooks=tuple(AddedHook(h.hook_name, h.path, h.args, h.env, h.timeout) for h in edits.hooks),
        groups=edits.additional_gids,
        net_devices=tuple((one.host_interface_name, one.name) for one in edits.net_devices),
        rdt=_rdt(edits.intel_rdt) if edits.intel_rdt is not None else RdtChange(),
    )


def _rdt(rdt: cdi.IntelRdt) -> RdtChange:
    """Both of the older schemas are lines of the newer `schemata` (config-linux.md, IntelRdt)."""
    lines = tuple(filter(None, (rdt.l3_cache_schema, rdt.mem_bw_schema, *rdt.schemata)))
    monitors = rdt.enable_cmt or rdt.enable_mbm or rdt.enable_monitoring
    return RdtChange(rdt.clos_id or None, lines or None, monitors or None)


def _mount(mount: cdi.Mount, name: str, field: str) -> AddedMount:
    options = mount.options
    if not mount.type and not {"bind", "rbind"} & set(options):
        options = ("rbind", *options)
    if (not mount.type or mount.type == "bind") and not os.path.exists(mount.host_path):
        raise InvalidRequest(f"CDI device {name}: {mount.host_path} is not on this host", field=field)
    # Never an empty type: some runtimes then make no mount at all.
    destination = os.path.normpath(mount.container_path)
    return AddedMount(destination, mount.host_path, mount.type or "bind", options)


def _node(node: cdi.DeviceNode, name: str, field: str) -> AddedDevice:
    path = node.host_path or node.path
    kind, major, minor = node.type, node.major, node.minor
    if not kind or not major:
        with trying(f"CDI device {name}: {path}", field=field):
            status = os.stat(path)
        real = "b" if stat.S_ISBLK(status.st_mode) else "c" if stat.S_ISCHR(status.st_mode) else ""
        if not real or (kind and real != kind.replace("u", "c")):
            wanted = f"a device of type {kind}" if kind else "a device"
            raise InvalidRequest(f"CDI device {name}: {path} is not {wanted}", field=field)
        kind, major, minor = real, os.major(status.st_rdev), os.minor(status.st_rdev)
    return AddedDevice(
        path=os.path.normpath(node.path),
        kind=kind.replace("u", "c"),
        major=major,
        minor=minor,
        permissions=node.permissions or "rwm",
        mode=node.file_mode,
        uid=node.uid,
        gid=node.gid,
    )
