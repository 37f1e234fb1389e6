"""Annotations of the OCI spec: what says whose container it is, and those of a user's that are let through.

OCI runtimes obey some annotations: crun's `run.oci.*` changes how a container is confined, and runc and
crun set properties of a systemd scope from `org.systemd.property.*` (CVE-2024-3154). So none of a user's gets
there unless the administrator has listed it for the handler.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.limits import limit_files
from crib.ocispec.unit_properties import unit_annotations, unit_properties
from crib.wire import oci_runtime as oci

_OBEYED = ("run.oci.", "org.systemd.property.", "org.criu.", "module.wasm.")
"""Beginnings of keys that a runtime obeys: a pattern that is only wide enough for them does not stand for
them."""


def spec_annotations(inputs: ContainerInputs, limits: oci.Resources) -> dict[str, str]:
    """The pod's that are let through, over them the container's, over them ours; `limits` are the spec's."""
    metadata = inputs.sandbox.config.metadata
    compiled = {"run.oci.seccomp_bpf_data": inputs.seccomp_filter} if inputs.seccomp_filter else {}
    if ".slice:" in inputs.cgroups_path:
        # crun would put the container one cgroup further down, where nobody looks for it.
        compiled["run.oci.systemd.subgroup"] = ""
        # Runtimes tell systemd some of the limits, and each some others.
        compiled |= unit_annotations(unit_properties(limit_files(limits, inputs.host.cgroup_layout)))
    patterns = inputs.options.annotations
    users = {**inputs.sandbox.config.annotations, **inputs.config.annotations} if patterns else {}
    return {
        **{key: value for key, value in users.items() if passes(key, patterns)},
        **compiled,
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": inputs.config.name,
        "io.kubernetes.cri.sandbox-id": inputs.sandbox.id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }


def passes(key: str, patterns: Sequence[str]) -> bool:
    """Whether one of the handler's patterns lets this key through; `*` stands for any characters."""
    obeyed = next((start for start in _OBEYED if key.startswith(start)), "")
    return any(
        pattern.startswith(obeyed)
        and re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), key, re.DOTALL)
        for pattern in patterns
    )
