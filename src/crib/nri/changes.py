"""What a plugin answers with: adjustments of a new container, updates and evictions of others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from typing import Literal, Self

from crib.nri.resources import SettableResources
from crib.stubs.nri.v1alpha1 import api_pb2 as messages

REMOVED = "-"
"""Before a name: what has this name is to be removed."""
HookStage = Literal[
    "prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"
]


class Adjustment(SettableResources):
    """Changes of a container that is being made.

    Two plugins may not set the same thing: the container's creation fails then. A plugin that wants to change
    what is there already removes it and adds its own.
    """

    def __init__(self) -> None:
        self.message = messages.ContainerAdjustment()
        """As NRI has it, for what no method says."""

    @property
    def resources(self) -> messages.LinuxResources:
        return self.message.linux.resources

    def add_annotation(self, key: str, value: str) -> Self:
        """An annotation of the OCI spec."""
        self.message.annotations[key] = value
        return self

    def remove_annotation(self, key: str) -> Self:
        self.message.annotations[REMOVED + key] = ""
        return self

    def add_mount(
        self, destination: str, source: str, options: Sequence[str] = ("bind",), *, type: str = "bind"
    ) -> Self:
        """A mount, with a source on the host."""
        self.message.mounts.add(destination=destination, source=source, type=type, options=options)
        return self

    def remove_mount(self, destination: str) -> Self:
        self.message.mounts.add(destination=REMOVED + destination)
        return self

    def add_env(self, name: str, value: str) -> Self:
        """A variable of the environment."""
        self.message.env.add(key=name, value=value)
        return self

    def remove_env(self, name: str) -> Self:
        self.message.env.add(key=REMOVED + name)
        return self

    def set_args(self, args: Sequence[str], *, over_others: bool = False) -> Self:
        """The command; `over_others` also where another plugin has set it."""
        del self.message.args[:]
        self.message.args.extend(["", *args] if over_others else args)
        return self

    def add_hook(
        self,
        stage: HookStage,
        path: str,
        args: Sequence[str] = (),
        env: Sequence[str] = (),
        timeout: int | None = None,
    ) -> Self:
        """A program of the host that the runtime runs at a stage of the container's life; `timeout` in
        seconds.
        """
        hook = messages.Hook(path=path, args=args, env=env)
        if timeout is not None:
            hook.timeout.value = timeout
        getattr(self.message.hooks, stage).append(hook)
        return self

    def add_rlimit(self, type: str, hard: int, soft: int) -> Self:
        """A limit of setrlimit(2), such as RLIMIT_NOFILE."""
        self.message.rlimits.add(type=type, hard=hard, soft=soft)
        return self

    def add_cdi_device(self, name: str) -> Self:
        """A device of the Container Device Interface, such as vendor.com/class=name."""
        self.message.CDI_devices.add(name=name)
        return self

    def add_device(self, device: messages.LinuxDevice) -> Self:
        """A device node, with access to it; `host_device` makes one of a node that the host has."""
        self.message.linux.devices.append(device)
        return self

    def remove_device(self, path: str) -> Self:
        self.message.linux.devices.add(path=REMOVED + path)
        return self

    def add_namespace(self, type: str, path: str = "") -> Self:
        """A namespace of the OCI spec in place of the container's own; without a path it is a new one."""
        self.message.linux.namespaces.add(type=type, path=path)
        return self

    def remove_namespace(self, type: str) -> Self:
        self.message.linux.namespaces.add(type=REMOVED + type)
        return self

    def set_sysctl(self, name: str, value: str) -> Self:
        """A kernel parameter of the container's namespaces."""
        self.message.linux.sysctl[name] = value
        return self

    def remove_sysctl(self, name: str) -> Self:
        self.message.linux.sysctl[REMOVED + name] = ""
        return self

    def add_net_device(self, host_name: str, name: str = "") -> Self:
        """A network interface of the host that moves into the container, under `name`."""
        self.message.linux.net_devices[host_name].name = name
        return self

    def remove_net_device(self, host_name: str) -> Self:
        self.message.linux.net_devices[REMOVED + host_name].SetInParent()
        return self

    def set_cgroups_path(self, path: str) -> Self:
        """Where the container's cgroup is, as the OCI spec has it."""
        self.message.linux.cgroups_path = path
        return self

    def set_oom_score_adj(self, score: int) -> Self:
        """-1000 to 1000."""
        self.message.linux.oom_score_adj.value = score
        return self

    def set_io_priority(self, io_class: messages.IOPrioClass.ValueType, priority: int) -> Self:
        """As ioprio_set(2) has it."""
        self.message.linux.io_priority.CopyFrom(
            messages.LinuxIOPriority(**{"class": io_class}, priority=priority)
        )
        return self

    def set_scheduler(self, scheduler: messages.LinuxScheduler) -> Self:
        """As sched_setattr(2) has it."""
        self.message.linux.scheduler.CopyFrom(scheduler)
        return self

    def set_seccomp(self, policy: messages.LinuxSeccomp) -> Self:
        """The whole seccomp policy."""
        self.message.linux.seccomp_policy.CopyFrom(policy)
        return self

    def set_memory_policy(
        self, mode: messages.MpolMode.ValueType, nodes: str, flags: Iterable[messages.MpolFlag.ValueType] = ()
    ) -> Self:
        """As set_mempolicy(2) has it; `nodes` is a list such as 0-1."""
        self.message.linux.memory_policy.CopyFrom(
            messages.LinuxMemoryPolicy(mode=mode, nodes=nodes, flags=flags)
        )
        return self

    def set_rdt(
        self,
        clos_id: str | None = None,
        schemata: Sequence[str] | None = None,
        *,
        enable_monitoring: bool | None = None,
    ) -> Self:
        """Cache and memory bandwidth (resctrl), part by part."""
        rdt = self.message.linux.rdt
        if clos_id is not None:
            rdt.clos_id.value = clos_id
        if schemata is not None:
            rdt.schemata.CopyFrom(messages.OptionalRepeatedString(value=schemata))
        if enable_monitoring is not None:
            rdt.enable_monitoring.value = enable_monitoring
        return self

    def remove_rdt(self) -> Self:
        """No cache and memory bandwidth of its own, whatever others have set."""
        self.message.linux.rdt.remove = True
        return self


class ResourceUpdate(SettableResources):
    """New limits of a container that exists."""

    def __init__(self, container_id: str) -> None:
        self.message = messages.ContainerUpdate(container_id=container_id)

    @property
    def resources(self) -> messages.LinuxResources:
        return self.message.linux.resources

    def ignore_failure(self) -> Self:
        """What the update comes with succeeds even if the update fails."""
        self.message.ignore_failure = True
        return self


class ContainerUpdates:
    """Updates of containers, by their ids."""

    def __init__(self) -> None:
        self._updates: dict[str, ResourceUpdate] = {}

    def update(self, container_id: str) -> ResourceUpdate:
        """The update of this container, to be filled."""
        if container_id not in self._updates:
            self._updates[container_id] = ResourceUpdate(container_id)
        return self._updates[container_id]

    @property
    def updates(self) -> list[messages.ContainerUpdate]:
        """All of them."""
        return [update.message for update in self._updates.values()]


class ContainerChanges(ContainerUpdates):
    """Updates and evictions."""

    def __init__(self) -> None:
        super().__init__()
        self._evictions: dict[str, str] = {}

    def evict(self, container_id: str, reason: str) -> None:
        """Have the runtime stop this container. Of those known only crib does so."""
        self._evictions[container_id] = reason

    @property
    def evictions(self) -> list[messages.ContainerEviction]:
        """All of them."""
        return [
            messages.ContainerEviction(container_id=container_id, reason=reason)
            for container_id, reason in self._evictions.items()
        ]


class NewContainerChanges(ContainerChanges):
    """Adjustments of the container that is being made, and changes of others."""

    def __init__(self) -> None:
        super().__init__()
        self.adjust = Adjustment()


def host_device(path: str) -> messages.LinuxDevice:
    """A device of this host as it is, for `Adjustment.add_device`. OSError, and ValueError if it is none."""
    status = os.stat(path)
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise ValueError(f"{path} is no device")
    device = messages.LinuxDevice(
        path=path,
        type="c" if stat.S_ISCHR(status.st_mode) else "b",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
    )
    device.file_mode.value = stat.S_IMODE(status.st_mode)
    device.uid.value, device.gid.value = status.st_uid, status.st_gid
    return device
