"""What a container is given before the guest's agent makes it: its disks, and its part of the share."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any

from crib.host.threads import OURS, Job
from crib.stubs.vm import guest_pb2 as guest
from crib.vm.shim.carrying import ProcessKey
from crib.vm.shim.disk_note import DiskNote, read_note
from crib.vm.shim.disks import DiskSource
from crib.vm.shim.options import MOST_BYTES
from crib.vm.shim.spec import GuestDisks, SourceKind, SpecSurroundings, for_guest

if TYPE_CHECKING:
    from crib.vm.shim.pod import VmPod

_log = logging.getLogger(__name__)

PREPARE_TIME = 30.0
"""Seconds for what a container is given: its mounts may lie on file systems that hang."""
_MOST_SPEC_BYTES = 16 * MOST_BYTES


async def give(pod: VmPod, container: str, bundle: str) -> None:
    """All of it. NotInVm, OptionProblem, OSError, CallFailed: what was given by then is for `take_back`."""
    job = Job(f"what container {container} is given", owner=container, limit=PREPARE_TIME)
    spec, note = await OURS.run(job, _read, bundle)
    disks = await _attached(pod, container, note)
    await OURS.run(job, _share, pod, _Container(container, bundle, disks), spec)


async def take_back(pod: VmPod, container: str) -> None:
    """Safe to repeat."""
    job = Job(f"the share of {container}", owner=container, limit=PREPARE_TIME)
    await OURS.run(job, pod.share.remove, container)
    try:
        await pod.disks.release(container)
    except OSError as error:  # they go with the VM
        _log.warning("disks of container %s stay with the VM: %s", container, error)


class _Container:
    """One that is being made."""

    def __init__(self, name: str, bundle: str, disks: GuestDisks) -> None:
        self.name = name
        self.bundle = bundle
        self.disks = disks


async def _attached(pod: VmPod, container: str, note: DiskNote) -> GuestDisks:
    layers = [
        await pod.disks.attach(container, DiskSource(path, "layer", read_only=True)) for path in note.layers
    ]
    disk = await pod.disks.attach(container, DiskSource(note.disk, "scratch")) if note.disk else -1
    devices = {}
    for one in note.volumes:
        lun = await pod.disks.attach(container, DiskSource(one.source, "volume", one.read_only))
        found = await pod.agent.ask("Disk", guest.DiskRequest(lun=lun), guest.DiskResponse)
        devices[one.path] = (found.major, found.minor)
    return GuestDisks(tuple(layers), disk, devices)


def _read(bundle: str) -> tuple[dict[str, Any], DiskNote]:
    with open(f"{bundle}/config.json", "rb") as file:
        document = file.read(_MOST_SPEC_BYTES)
    return json.loads(document), read_note(bundle)


def _share(pod: VmPod, container: _Container, spec: dict[str, Any]) -> None:
    """Make its part of the share. Blocks."""

    def pid_in_guest(name: str) -> int:
        found = pod.processes.find(ProcessKey(name, ""))
        return 0 if found is None or found.ended.done() else found.pid

    around = SpecSurroundings(
        container=container.name,
        bundle=container.bundle,
        shm=pod.plan.shm,
        shared_pid=pod.plan.shared_pid,
        look=lambda path: SourceKind(os.stat(path).st_mode),
        pid_of=pid_in_guest,
        disks=container.disks,
    )
    made = for_guest(spec, around)
    pod.share.add(container.name, json.dumps(made.document).encode(), made.shared)
