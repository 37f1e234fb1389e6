"""Seccomp filters that crun has compiled, for the next container with the same profile.

crun compiles a profile again at each create, which takes longer than all the rest of it (10 ms for some 350
calls). It leaves the result in the container's state directory, and takes such a result instead of compiling
(crun(1), run.oci.seccomp_bpf_data). So the first container of a profile pays, and the others do not.
"""

from __future__ import annotations

import base64
from collections import OrderedDict

import msgspec

from crib.model.ids import ContainerId, SandboxId
from crib.ocispec.inputs import ContainerInputs
from crib.ocispec.seccomp import seccomp
from crib.wire import oci_runtime as oci

_PROFILES = 64
"""Profiles that are remembered; the one that was used least lately goes first."""
_FILTER_BYTES = 4096 * 8
"""A filter has at most BPF_MAXINSNS instructions of 8 bytes (linux/bpf_common.h)."""
_NOTIFY = b"SCMP_ACT_NOTIFY"


class SeccompFilters:
    """Filters by the exact profile that they were compiled from; none of a runtime that keeps none.

    `root` is the state directory of a runtime that does.
    """

    def __init__(self, root: str, *, kept: bool = True) -> None:
        self._root = root
        self._kept = kept
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def known(self, profile: oci.Seccomp | None) -> str:
        """The filter of this profile in base64; empty when there is none, or it is not known yet."""
        if profile is None:
            return ""
        key = msgspec.json.encode(profile)
        filter_ = self._known.get(key, "")
        if filter_:
            self._known.move_to_end(key)
        return filter_

    def ready(self, inputs: ContainerInputs) -> str:
        """What is `known` of a container's profile (ContainerInputs.seccomp_filter)."""
        return self.known(seccomp(inputs)) if self._kept else ""

    def is_new(self, profile: oci.Seccomp | None) -> bool:
        """Whether there is something to `learn`."""
        return self._kept and profile is not None and not self.known(profile)

    def learn(self, container: ContainerId | SandboxId, profile: oci.Seccomp | None) -> None:
        """Remember what crun made of this profile for a container that was just created. Blocks."""
        if profile is None:
            return
        key = msgspec.json.encode(profile)
        # A filter that asks a listener is made for one container and its listener.
        if key in self._known or _NOTIFY in key:
            return
        try:
            with open(f"{self._root}/{container}/seccomp.bpf", "rb") as file:
                content = file.read(_FILTER_BYTES + 1)
        except OSError:
            return  # a crun that keeps it elsewhere, or nowhere: it compiles as before
        if not content or len(content) > _FILTER_BYTES or len(content) % 8:
            return
        self._known[key] = base64.b64encode(content).decode("ascii")
        if len(self._known) > _PROFILES:
            self._known.popitem(last=False)
