"""`imagePullSecrets`: credentials for registries, from Secrets of the files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.wire.docker_config import AuthFile, MalformedAuth, parse_auth_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crib.manifest.fields import ManifestNode
    from crib.manifest.references import References
    from crib.wire.docker_config import AuthEntry

_TYPES = {"kubernetes.io/dockerconfigjson": ".dockerconfigjson", "kubernetes.io/dockercfg": ".dockercfg"}
"""Types of such Secrets, and the key under which each has them."""
HUB = "docker.io"


def pull_credentials(spec: ManifestNode, references: References) -> tuple[AuthFile, ...]:
    """Of the pod, in order. One that is not there is noted: the daemon may have what is needed."""
    found = []
    for node in spec.children("imagePullSecrets"):
        node.check(shapes.LOCAL_REF)
        name = node.need_text("name")
        secret = references.objects.find("Secret", references.facts.namespace, name)
        if secret is None:
            words = f"left out: there is no Secret {name!r} here; the daemon's own credentials count"
            node.notes.add(node.place, words)
            continue
        references.used["Secret", name] = secret
        key = _TYPES.get(secret.type, "")
        if not key:
            node.wrong("name", f"Secret {name} is of type {secret.type}, not one of {', '.join(_TYPES)}")
        elif key not in secret.data:
            node.wrong("name", f"Secret {name} has no key {key}")
        elif not references.facts.site.hide_secrets:
            try:
                found.append(_auth_file(secret.data[key], key))
            except MalformedAuth as error:
                node.wrong("name", f"Secret {name}: {key} {error}")
    return tuple(found)


def _auth_file(data: bytes, key: str) -> AuthFile:
    if key == ".dockercfg":  # the older format: what is under `auths` in the newer one
        try:
            data = json.dumps({"auths": json.loads(data)}).encode()
        except (ValueError, RecursionError):
            raise MalformedAuth("is not JSON") from None
    return parse_auth_file(data)


def credential_for(image: str, credentials: Sequence[AuthFile]) -> AuthEntry | None:
    """What an image's registry is given; None when no credential is for it."""
    name = image.split("@", 1)[0]
    host, slash, path = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, path = HUB, name if slash else f"library/{name}"
    head, last = path.rpartition("/")[::2]
    path = f"{head}/{last.partition(':')[0]}".strip("/")
    for known in credentials:
        if (entry := known.entry(host, path)) is not None:
            return entry[1]
    return None
