"""The one recipe: places the parts, each of which is made by its own author and changed by nobody else."""

from __future__ import annotations

import msgspec

from crib.ocispec.annotations import spec_annotations
from crib.ocispec.base_spec import merged, merged_lists
from crib.ocispec.classes import intel_rdt
from crib.ocispec.devices import device_nodes
from crib.ocispec.edits import edited
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.mounts import mounts, rootfs_propagation
from crib.ocispec.namespaces import check_user, id_mappings, namespaces
from crib.ocispec.process import container_process
from crib.ocispec.resources import resources
from crib.ocispec.seccomp import seccomp
from crib.ocispec.security import masked_paths, mount_label, readonly_paths
from crib.wire import oci_runtime as oci


def container_spec(inputs: ContainerInputs) -> oci.Spec:
    """The whole config.json. Raises InvalidRequest, naming the CRI field, for what cannot be done."""
    process = container_process(inputs)
    check_user(inputs.sandbox.config, process.user)
    uids, gids = id_mappings(inputs.sandbox.config)
    limits = resources(inputs)
    spec = oci.Spec(
        oci_version=inputs.handler.oci_version,
        process=process,
        root=oci.Root(path=inputs.root, readonly=inputs.config.security.readonly_rootfs),
        mounts=mounts(inputs),
        annotations=spec_annotations(inputs, limits),
        linux=oci.Linux(
            namespaces=namespaces(inputs),
            uid_mappings=uids,
            gid_mappings=gids,
            cgroups_path=inputs.cgroups_path,
            resources=limits,
            devices=device_nodes(inputs),
            rootfs_propagation=rootfs_propagation(inputs),
            seccomp=seccomp(inputs),
            masked_paths=masked_paths(inputs),
            readonly_paths=readonly_paths(inputs),
            mount_label=mount_label(inputs),
            intel_rdt=intel_rdt(inputs),
        ),
    )
    return edited(inputs, spec)


def made_mounts(inputs: ContainerInputs, spec: oci.Spec) -> tuple[oci.Mount, ...]:
    """All mounts of `container_document`, those of the base spec too, in the order of their making."""
    if not inputs.base_spec.get("mounts"):
        return spec.mounts
    every = merged_lists("mounts", inputs.base_spec["mounts"], msgspec.to_builtins(spec.mounts))
    return tuple(
        oci.Mount(
            destination=mount["destination"],
            type=mount.get("type") or "",
            source=mount.get("source") or "",
            options=tuple(mount.get("options") or ()),
        )
        for mount in every
    )


def container_document(inputs: ContainerInputs, spec: oci.Spec) -> bytes:
    """What config.json holds: the spec over the handler's base spec, if there is one.

    ValueError when a text in it is not Unicode.
    """
    if not inputs.base_spec:
        return oci.encode(spec)
    return msgspec.json.encode(merged(inputs.base_spec, msgspec.to_builtins(spec)))


def runs_hooks_at_delete(inputs: ContainerInputs, spec: oci.Spec) -> bool:
    """Whether the runtime's delete has more to do than to remove what it made (poststop hooks)."""
    ours = spec.hooks is not None and bool(spec.hooks.poststop)
    return ours or bool(inputs.base_spec.get("hooks", {}).get("poststop"))
