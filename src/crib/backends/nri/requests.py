"""What plugins are sent at each moment."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from crib.backends.nri.moments import Moment
from crib.backends.nri.translate import change_message, container_message, pod_message, resources_message
from crib.model.edits import ContainerEdits
from crib.model.plugins import PodMoment, ShownContainer, ShownPod
from crib.model.resource_change import ResourceChange
from crib.stubs.nri.v1alpha1 import api_pb2 as pb

MOMENTS = {moment.call: moment for moment in Moment}
"""By the name of the call, as the port has them."""
ANSWERS: dict[Moment, type[Message]] = {one: getattr(pb, f"{one.call}Response") for one in Moment}
_REQUESTS = {one: getattr(pb, f"{one.call}Request") for one in Moment}


def pod_request(moment: PodMoment, pod: ShownPod) -> Message:
    """About a pod."""
    shown = pod_message(pod)
    if moment is PodMoment.UPDATE:
        return pb.UpdatePodSandboxRequest(
            pod=shown,
            overhead_linux_resources=resources_message(pod.overhead),
            linux_resources=resources_message(pod.resources),
        )
    request: Message = _REQUESTS[MOMENTS[moment]](pod=shown)
    return request


def container_request(
    moment: Moment, pod: ShownPod, container: ShownContainer, edits: Sequence[ContainerEdits] = ()
) -> Message:
    """About a container; while it is created `edits` are those of the plugins that were asked before."""
    shown = container_message(container, edits)
    request: Message = _REQUESTS[moment](pod=pod_message(pod), container=shown)
    return request


def update_request(pod: ShownPod, container: ShownContainer, change: ResourceChange) -> Message:
    """About other limits for it."""
    return pb.UpdateContainerRequest(
        pod=pod_message(pod),
        container=container_message(container),
        linux_resources=change_message(change),
    )
