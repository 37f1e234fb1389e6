"""Device nodes, and what the devices cgroup lets a container open (cgroup v1 devices; eBPF on v2)."""

from __future__ import annotations

from crib.model.errors import InvalidRequest
from crib.ocispec.inputs import ContainerInputs, HostDevice
from crib.wire import oci_runtime as oci

_DENY_ALL = oci.DeviceRule(allow=False)
_CUSTOMARY = (
    oci.DeviceRule(allow=True, type="c", access="m"),
    oci.DeviceRule(allow=True, type="b", access="m"),
    *(
        oci.DeviceRule(allow=True, type="c", major=major, minor=minor)
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
    ),
)
"""null, zero, full, random, urandom, tty, console, ptmx, pts: the runtime makes these nodes by itself
(config-linux.md, Default Devices). Making other nodes is allowed, opening them is not."""


def device_nodes(inputs: ContainerInputs) -> tuple[oci.Device, ...]:
    """The nodes to make beside the default ones."""
    security = inputs.config.security
    uid = security.run_as_user if inputs.device_ownership else None
    gid = security.run_as_group if inputs.device_ownership else None
    nodes = {}
    for device in (*inputs.node_devices, *inputs.devices):
        nodes[device.path] = oci.Device(
            path=device.path,
            type=device.kind,
            major=device.major,
            minor=device.minor,
            file_mode=device.mode,
            uid=device.uid if uid is None else uid,
            gid=device.gid if gid is None else gid,
        )
    return tuple(nodes.values())


def device_rules(inputs: ContainerInputs) -> tuple[oci.DeviceRule, ...]:
    """Everything for a privileged container, unless its handler withholds the host's devices.

    Else nothing but the default devices and those asked for.
    """
    if inputs.privileged and not inputs.options.privileged_without_host_devices:
        return (oci.DeviceRule(allow=True),)
    rules = [_DENY_ALL, *_CUSTOMARY, *map(_rule, inputs.node_devices)]
    for position, device in enumerate(inputs.devices):
        if not device.permissions or set(device.permissions) - set("rwm"):
            raise InvalidRequest(
                f"{device.permissions!r} is not made of r, w and m",
                field=f"devices[{position}].permissions",
            )
        rules.append(_rule(device))
    return tuple(rules)


def _rule(device: HostDevice) -> oci.DeviceRule:
    return oci.DeviceRule(
        allow=True, type=device.kind, major=device.major, minor=device.minor, access=device.permissions
    )
