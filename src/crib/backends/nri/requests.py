"""What plugins are sent at each moment."""

from __future__ import annotations

from google.protobuf.message import Message

from crib.backends.nri.moments import Moment
from crib.backends.nri.translate import change_message, pod_message, resources_message
from crib.model.ids import SandboxId
from crib.model.plugins import PodMoment, ShownPod
from crib.model.resource_change import ResourceChange
from crib.stubs.nri.v1alpha1 import api_pb2 as pb

MOST_KEPT = 64
"""Pods whose messages are kept, some KiB each."""
MOMENTS = {moment.call: moment for moment in Moment}
"""By the name of the call, as the port has them."""
ANSWERS: dict[Moment, type[Message]] = {one: getattr(pb, f"{one.call}Response") for one in Moment}
_REQUESTS = {one: getattr(pb, f"{one.call}Request") for one in Moment}


class PodMessages:
    """Pods as messages. A pod is shown with each of its containers, and seldom changes in between."""

    def __init__(self) -> None:
        self._known: dict[SandboxId, tuple[ShownPod, pb.PodSandbox]] = {}

    def of(self, pod: ShownPod) -> pb.PodSandbox:
        """Not to be changed."""
        shown, message = self._known.pop(pod.record.id, (None, None))
        if message is None or shown is not pod:
            message = pod_message(pod)
        self._known[pod.record.id] = (pod, message)  # the last of them
        if len(self._known) > MOST_KEPT:
            del self._known[next(iter(self._known))]
        return message


def pod_request(moment: PodMoment, pod: ShownPod, shown: pb.PodSandbox) -> Message:
    """About a pod."""
    if moment is PodMoment.UPDATE:
        return pb.UpdatePodSandboxRequest(
            pod=shown,
            overhead_linux_resources=resources_message(pod.overhead),
            linux_resources=resources_message(pod.resources),
        )
    request: Message = _REQUESTS[MOMENTS[moment]](pod=shown)
    return request


def container_request(moment: Moment, pod: pb.PodSandbox, container: pb.Container) -> Message:
    """About a container."""
    request: Message = _REQUESTS[moment](pod=pod, container=container)
    return request


def update_request(pod: pb.PodSandbox, container: pb.Container, change: ResourceChange) -> Message:
    """About other limits for it."""
    return pb.UpdateContainerRequest(pod=pod, container=container, linux_resources=change_message(change))
