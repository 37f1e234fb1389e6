"""The one recipe: places the parts, each of which is made by its own author and changed by nobody else."""

from __future__ import annotations

from crib.ocispec.devices import device_nodes
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.mounts import mounts, rootfs_propagation
from crib.ocispec.namespaces import namespaces
from crib.ocispec.process import container_process
from crib.ocispec.resources import resources
from crib.ocispec.seccomp import seccomp
from crib.ocispec.security import masked_paths, mount_label, readonly_paths
from crib.wire import oci_runtime as oci


def container_spec(inputs: ContainerInputs) -> oci.Spec:
    """The whole config.json. Raises InvalidRequest, naming the CRI field, for what cannot be done."""
    return oci.Spec(
        oci_version=inputs.handler.oci_version,
        process=container_process(inputs),
        root=oci.Root(path=inputs.root, readonly=inputs.config.security.readonly_rootfs),
        mounts=mounts(inputs),
        annotations=_annotations(inputs),
        linux=oci.Linux(
            namespaces=namespaces(inputs),
            cgroups_path=inputs.cgroups_path,
            resources=resources(inputs),
            devices=device_nodes(inputs),
            rootfs_propagation=rootfs_propagation(inputs),
            seccomp=seccomp(inputs),
            masked_paths=masked_paths(inputs),
            readonly_paths=readonly_paths(inputs),
            mount_label=mount_label(inputs),
        ),
    )


def _annotations(inputs: ContainerInputs) -> dict[str, str]:
    # A user's annotations stay out: OCI runtimes obey some of them (crun's `run.oci.*` weakens the
    # container).
    metadata = inputs.sandbox.config.metadata
    compiled = {"run.oci.seccomp_bpf_data": inputs.seccomp_filter} if inputs.seccomp_filter else {}
    return {
        **compiled,
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": inputs.config.name,
        "io.kubernetes.cri.sandbox-id": inputs.sandbox.id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }
