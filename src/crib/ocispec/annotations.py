"""Annotations of the OCI spec: whose container it is, and those of users that are let through.

A user's annotation gets there only if the administrator has listed it for the handler (`defaults.passes`).
"""

from __future__ import annotations

from crib.ocispec.defaults import passes
from crib.ocispec.init_system import systemd_annotations
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.limits import limit_files
from crib.ocispec.unit_properties import scope_policy, unit_annotations, unit_properties
from crib.wire import oci_runtime as oci

_FILTER = "run.oci.seccomp_bpf_data"


def spec_annotations(inputs: ContainerInputs, limits: oci.Resources) -> dict[str, str]:
    """The pod's that are let through, over them the container's, over them ours; `limits` are the spec's."""
    metadata = inputs.sandbox.config.metadata
    compiled = compiled_filter(inputs.seccomp_filter)
    if ".slice:" in inputs.cgroups_path:
        # crun would put the container one cgroup further down, where nobody looks for it.
        compiled["run.oci.systemd.subgroup"] = ""
        compiled |= limit_annotations(inputs, limits)
    patterns = inputs.options.annotations
    users = {**inputs.sandbox.config.annotations, **inputs.config.annotations} if patterns else {}
    return {
        **{key: value for key, value in users.items() if passes(key, patterns)},
        **compiled,
        **systemd_annotations(inputs),
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": inputs.config.name,
        "io.kubernetes.cri.sandbox-id": inputs.sandbox.id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }


def limit_annotations(inputs: ContainerInputs, limits: oci.Resources) -> dict[str, str]:
    """What has systemd hold these limits, where it makes the container's scope.

    Runtimes give systemd only some of the limits, and each runtime others.
    """
    if ".slice:" not in inputs.cgroups_path:
        return {}
    files = limit_files(limits, inputs.host.cgroup_layout)
    return unit_annotations(unit_properties(files)) | scope_policy(files, inputs.handler.systemd)


def compiled_filter(filter_: str) -> dict[str, str]:
    """What has crun take a seccomp filter instead of compiling its profile (crun(1)); empty: nothing."""
    return {_FILTER: filter_} if filter_ else {}


def without_filter(annotations: dict[str, str]) -> dict[str, str]:
    """For a spec whose profile is no longer the one that the filter was made from."""
    return {key: value for key, value in annotations.items() if key != _FILTER}
