"""Classes of block I/O and of RDT that pods' annotations name, as containerd and CRI-O know them.

A container's own annotation comes first, then the pod's for that container, then the pod's for all of them.
The kubelet passes a pod's annotations on; a container's own come from other clients.
"""

from __future__ import annotations

from crib.model.errors import InvalidRequest
from crib.ocispec.inputs import ContainerInputs
from crib.wire import oci_runtime as oci

_BLOCKIO, _RDT = "blockio", "rdt"


def block_io(inputs: ContainerInputs) -> oci.BlockIo | None:
    """The `blockIO` of the limits. InvalidRequest, naming the annotation, for a class that is not there."""
    key, name = _named(inputs, _BLOCKIO)
    if not name:
        return None
    found = inputs.blockio_classes.get(name)
    if found is None:
        known = ", ".join(sorted(inputs.blockio_classes)) or "none: see the setting blockio_config_file"
        raise InvalidRequest(f"this node has no block I/O class {name!r} (it has {known})", field=key)
    return found


def intel_rdt(inputs: ContainerInputs) -> oci.IntelRdt | None:
    """The `intelRdt` of the spec, likewise."""
    key, name = _named(inputs, _RDT)
    if not name:
        return None
    handler = inputs.handler
    if name not in inputs.rdt_classes:
        known = ", ".join(sorted(inputs.rdt_classes)) or "none: nothing is mounted at /sys/fs/resctrl"
        raise InvalidRequest(f"this node has no RDT class {name!r} (it has {known})", field=key)
    if "rdt" in handler.unknown_fields:
        raise InvalidRequest(
            f"handler {handler.name} ({handler.program} {handler.version}) knows no RDT classes", field=key
        )
    return oci.IntelRdt(clos_id=name)


def _named(inputs: ContainerInputs, kind: str) -> tuple[str, str]:
    """The annotation that counts, and the class that it names; empty where there is none."""
    container, pod = inputs.config, inputs.sandbox.config
    for key, given in (
        (f"io.kubernetes.cri.{kind}-class", container.annotations),
        (f"{kind}.resources.beta.kubernetes.io/container.{container.name}", pod.annotations),
        (f"{kind}.resources.beta.kubernetes.io/pod", pod.annotations),
    ):
        if key in given:
            return f"annotations[{key!r}]", given[key]
    return "", ""
