"""Which namespaces are joined, made, or left as the host's."""

from __future__ import annotations

from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import NamespaceMode
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.userns import check_container_namespaces
from crib.wire import oci_runtime as oci


def namespaces(inputs: ContainerInputs) -> tuple[oci.Namespace, ...]:
    """Network and IPC are the pod's.

    UTS follows the network; pid is the container's own choice; users are the pod's (CRI NamespaceOption).
    """
    pod = inputs.sandbox.config.security.namespaces
    check_container_namespaces(inputs.sandbox.config, inputs.config.security.namespaces)
    made = [oci.Namespace(type="mount")]
    if inputs.sandbox.config.user_namespace is not None:
        made.append(oci.Namespace(type="user", path=inputs.pod.user_namespace))
    if pod.network != NamespaceMode.NODE:
        made += [
            oci.Namespace(type="network", path=inputs.pod.net_namespace),
            oci.Namespace(type="uts", path=inputs.pod.uts_namespace),
        ]
    if pod.ipc != NamespaceMode.NODE:
        made.append(oci.Namespace(type="ipc", path=inputs.pod.ipc_namespace))
    if inputs.host.cgroup_layout == "v2" and not inputs.privileged:
        made.append(oci.Namespace(type="cgroup"))
    return (*made, *_pid(inputs))


def _pid(inputs: ContainerInputs) -> tuple[oci.Namespace, ...]:
    mode = inputs.config.security.namespaces.pid
    match mode:
        case NamespaceMode.NODE:
            return ()
        case NamespaceMode.POD if inputs.sandbox.config.shares_pid:
            if not inputs.pod.pid_namespace:
                raise Broken(f"sandbox {inputs.sandbox.id} shares its pid namespace but has no infra process")
            return (oci.Namespace(type="pid", path=inputs.pod.pid_namespace),)
        case NamespaceMode.TARGET:
            if inputs.target_pid <= 0:
                raise InvalidRequest(
                    f"container {inputs.config.security.namespaces.target_id!r} does not run",
                    field="linux.security_context.namespace_options.target_id",
                )
            return (oci.Namespace(type="pid", path=f"/proc/{inputs.target_pid}/ns/pid"),)
        case _:
            return (oci.Namespace(type="pid"),)
