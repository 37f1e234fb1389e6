"""Request fields that nothing reads, and calls that are not built, with reasons.

tests/architecture/test_field_ledger.py watches every decoding. It fails for a field that is neither read nor
listed, and for one that is both. The lists only shrink. A message that is not read hides the fields below it.
"""

from __future__ import annotations

_ELSEWHERE = "the sandbox's own record is the truth: it holds the config that RunPodSandbox was given"
_LINUX_ONLY = "crib runs on Linux only"

UNREAD = {
    "ContainerConfig.windows": _LINUX_ONLY,
    "CreateContainerRequest.sandbox_config": _ELSEWHERE,
    "ImageSpec.image_ref": "an answer's field: which image a mount got; in requests `image` names it",
    "ImageSpec.runtime_handler": "every handler mounts the same layers, so an image is kept once for all",
    "PodSandboxConfig.windows": _LINUX_ONLY,
    "UpdateContainerResourcesRequest.annotations": "hints for runtime plugins, of which there are none",
    "UpdateContainerResourcesRequest.windows": _LINUX_ONLY,
    "VersionRequest.version": "the answer is the same whatever version the client speaks",
}
"""`Message.field` to the reason why no translation reads it."""

NOT_BUILT: dict[str, str] = {}
"""Calls that answer UNIMPLEMENTED, and the reason that they give."""
