"""`spec.volumes`: what each of them is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.claims import check_absolute, read_size
from crib.manifest.fields import MAX_NUMBER, ManifestNode, check_label, unique
from crib.manifest.plan import HOST_PATH_TYPES, PullPolicy, VolumeFile, VolumePlan
from crib.manifest.pod_claims import CLAIMS, PodClaims
from crib.manifest.projections import config_map_files, downward_files, projected_files, secret_files

if TYPE_CHECKING:
    from crib.manifest.references import References

PULL_POLICIES = ("Always", "IfNotPresent", "Never")


_KINDS = (
    "emptyDir",
    "hostPath",
    "image",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
    "ephemeral",
    "csi",
)


def volume_plans(spec: ManifestNode, references: References) -> dict[str, VolumePlan]:
    """Every volume of the pod by name."""
    found: dict[str, VolumePlan] = {}
    claims = PodClaims(spec, references)
    for node in unique(spec.children("volumes"), "name", "volume"):
        node.check(shapes.VOLUME)
        name = check_label(node, "name")
        kinds = [kind for kind in _KINDS if node.has(kind)]
        if len(kinds) == 1:
            source = node.part(kinds[0])
            if kinds[0] in CLAIMS:
                found[name] = claims.volume(source, kinds[0], name)
            elif kinds[0] == "emptyDir":
                found[name] = _empty_dir(source, name, claims)
            else:
                found[name] = _volume(source, kinds[0], name, references)
            continue
        found[name] = VolumePlan(name, "emptyDir")  # for those who mount it
        if kinds:
            node.wrong("", f"has more than one of {', '.join(kinds)}")
        elif not any(known in shapes.VOLUME.refused for known in node.names()):
            node.wrong("", f"needs one of {', '.join(_KINDS)}")
    return _owned(spec.part("securityContext"), found)


def _owned(security: ManifestNode, found: dict[str, VolumePlan]) -> dict[str, VolumePlan]:
    """With `fsGroup` for the volumes that crib makes; those of the host and of images keep their owners."""
    group = security.number("fsGroup", 0, MAX_NUMBER)
    policy = security.choice("fsGroupChangePolicy", ("Always", "OnRootMismatch"), "Always")
    if group is None:
        return found
    made = {name for name, volume in found.items() if volume.kind not in ("hostPath", "image")}
    always = policy == "Always"
    return {
        name: replace(volume, group=group, group_always=always) if name in made else volume
        for name, volume in found.items()
    }


def _volume(source: ManifestNode, kind: str, name: str, references: References) -> VolumePlan:
    if kind == "hostPath":
        source.check(shapes.HOST_PATH)
        path = source.need_text("path")
        check_absolute(path, source)
        host_type = source.choice("type", HOST_PATH_TYPES, "")
        return VolumePlan(name, "hostPath", path=path, host_type=host_type)
    if kind == "image":
        source.check(shapes.IMAGE_VOLUME)
        reference = source.need_text("reference")
        return VolumePlan(name, "image", image=reference, pull=pull_policy(source, "pullPolicy", reference))
    files = _files(source, kind, name, references)
    # as a kubelet has it: what may be secret is only ever in memory
    return VolumePlan(
        name, "files", path=references.directory(name), memory=kind != "configMap", files=tuple(files)
    )


def _files(source: ManifestNode, kind: str, name: str, references: References) -> list[VolumeFile]:
    if kind == "configMap":
        return config_map_files(source, references)
    if kind == "secret":
        return secret_files(source, references)
    if kind == "downwardAPI":
        return downward_files(source, references)
    return projected_files(source, references, name)


def _empty_dir(source: ManifestNode, name: str, claims: PodClaims) -> VolumePlan:
    source.check(shapes.EMPTY_DIR)
    medium = source.text("medium")
    if medium.startswith("HugePages"):
        source.wrong("medium", "not supported: volumes of huge pages need a kubelet")
    else:
        source.choice("medium", ("", "Memory"), "")
    size = read_size(source, "sizeLimit")
    if size and not medium:
        return claims.of_limited_size(source, name, size)
    directory = claims.references.directory(name)
    return VolumePlan(name, "emptyDir", path=directory, memory=bool(medium), size=size)


def pull_policy(node: ManifestNode, name: str, image: str) -> PullPolicy:
    """The policy, with Kubernetes' default: Always for the tag latest, else IfNotPresent.

    Images of the host name `localhost` are made here and have no registry, so for them it is IfNotPresent.
    """
    last = image.rsplit("/", 1)[-1]
    tag = last.split("@", 1)[0].partition(":")[2]
    moving = "@" not in last and tag in ("", "latest") and not image.startswith("localhost/")
    word = node.choice(name, PULL_POLICIES, "Always" if moving else "IfNotPresent")
    if word == "Always":
        return "Always"
    return "Never" if word == "Never" else "IfNotPresent"
