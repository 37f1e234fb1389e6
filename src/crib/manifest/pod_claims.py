"""A pod's volumes that the runtime keeps: claims, ephemeral and inline `csi` volumes, limited `emptyDir`s."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.claim_plan import ClaimPlan, ClaimSpec, DriverPlan
from crib.manifest.claims import claim_request
from crib.manifest.fields import check_subdomain, is_subdomain
from crib.manifest.late import volume_mark
from crib.manifest.plan import VolumePlan

if TYPE_CHECKING:
    from crib.manifest.claims import ClaimRequest
    from crib.manifest.fields import ManifestNode
    from crib.manifest.objects import DataObject
    from crib.manifest.references import References

CLAIMS = ("persistentVolumeClaim", "ephemeral", "csi")


class PodClaims:
    """Those of one pod."""

    def __init__(self, spec: ManifestNode, references: References) -> None:
        self.references = references
        self._facts = references.facts
        self._as_devices = {
            device.raw("name")
            for container in spec.children("initContainers") + spec.children("containers")
            for device in container.children("volumeDevices")
        }

    def volume(self, source: ManifestNode, kind: str, name: str) -> VolumePlan:
        """One volume of these kinds, by its name in the pod."""
        if kind == "persistentVolumeClaim":
            return self._claim(source, name)
        if kind == "ephemeral":
            return self._ephemeral(source, name)
        return self._inline(source, name)

    def _claim(self, source: ManifestNode, name: str) -> VolumePlan:
        source.check(shapes.CLAIM_VOLUME)
        wanted = check_subdomain(source, "claimName")
        read_only = bool(source.flag("readOnly"))
        known = self.references.objects.find("PersistentVolumeClaim", self._facts.namespace, wanted)
        if known is None or known.claim is None:
            # made for the first pod that asks for it, as that pod wants to use it
            spec = ClaimSpec(block=name in self._as_devices)
            claim = ClaimPlan(self._facts.namespace, wanted, (), spec, is_described=False)
            return _of_runtime(name, claim, read_only=read_only)
        self._use(known)
        labels = tuple(sorted(known.labels.items()))
        volume = self._volume_of(known, known.claim, source)
        if volume is None:
            spec = self._with_source(known.claim, source)
            claim = ClaimPlan(self._facts.namespace, wanted, labels, spec)
            return _of_runtime(name, claim, read_only=read_only)
        persistent = volume.persistent
        assert persistent is not None
        read_only = read_only or persistent.read_only
        if persistent.directory is not None:
            directory = persistent.directory
            return VolumePlan(
                name, "hostPath", path=directory.path, host_type=directory.type, read_only=read_only
            )
        if known.claim.spec.block != persistent.spec.block:
            source.wrong("claimName", f"PersistentVolume {volume.name} has another volumeMode than the claim")
        modes = known.claim.spec.access_modes or persistent.spec.access_modes
        claim = ClaimPlan(self._facts.namespace, wanted, labels, replace(persistent.spec, access_modes=modes))
        return _of_runtime(name, claim, read_only=read_only)

    def _use(self, found: DataObject) -> None:
        self.references.used[found.kind, found.name] = found

    def _volume_of(self, claim: DataObject, request: ClaimRequest, source: ManifestNode) -> DataObject | None:
        """The PersistentVolume that a claim gets."""
        objects = self.references.objects
        if request.volume:
            found = objects.find("PersistentVolume", "", request.volume)
            if found is None:
                text = f"claim {claim.name}: no effect of volumeName: no file has PersistentVolume "
                source.notes.add(source.place, f"{text}{request.volume!r}")
        else:
            found = objects.volume_for(claim.namespace, claim.name)
        if found is not None:
            self._use(found)
        return found

    def _with_source(self, request: ClaimRequest, source: ManifestNode) -> ClaimSpec:
        """With the claim that a snapshot is taken of, if a file says it."""
        spec, wanted = request.spec, request.spec.source
        if wanted is None or not wanted.is_snapshot:
            return spec
        found = self.references.objects.find("VolumeSnapshot", self._facts.namespace, wanted.name)
        if found is None:
            return spec
        self._use(found)
        return replace(spec, source=replace(wanted, taken_of=found.taken_of))

    def _ephemeral(self, source: ManifestNode, name: str) -> VolumePlan:
        source.check(shapes.EPHEMERAL_VOLUME)
        template = source.child("volumeClaimTemplate")
        if template is None:
            source.wrong("volumeClaimTemplate", "is required")
            return VolumePlan(name, "emptyDir")
        template.check(shapes.CLAIM_TEMPLATE)
        metadata = template.part("metadata")
        metadata.check(shapes.CLAIM_TEMPLATE_METADATA)
        if not template.has("spec"):
            template.wrong("spec", "is required")
        request = claim_request(template.part("spec"))
        spec = self._with_source(request, source)
        if request.volume:
            template.part("spec").wrong("volumeName", "not for an ephemeral volume: it is made for the pod")
        labels = tuple(sorted(metadata.mapping("labels").items()))
        return _of_runtime(name, self._own(source, name, spec, labels))

    def _inline(self, source: ManifestNode, name: str) -> VolumePlan:
        source.check(shapes.CSI_VOLUME)
        secrets: tuple[tuple[str, bytes], ...] = ()
        reference = source.child("nodePublishSecretRef")
        if reference is not None:
            reference.check(shapes.LOCAL_REF)
            found = self.references.find(reference, "name", "Secret")
            secrets = tuple(sorted(found.data.items())) if found is not None else ()
        attributes = tuple(sorted(source.mapping("volumeAttributes").items()))
        driver = DriverPlan(check_subdomain(source, "driver"), "", attributes, secrets)
        spec = ClaimSpec(kind="csi", driver=driver, fs_type=source.text("fsType"))
        read_only = bool(source.flag("readOnly"))
        return _of_runtime(name, self._own(source, name, spec), read_only=read_only)

    def of_limited_size(self, source: ManifestNode, name: str, size: int) -> VolumePlan:
        """An `emptyDir` on disk with a `sizeLimit`: a volume at crib, elsewhere a mere directory."""
        claim = self._own(source, name, ClaimSpec(kind="local", size=size))
        return VolumePlan(name, "emptyDir", path=volume_mark(name), claim=claim, size=size)

    def _own(
        self, source: ManifestNode, name: str, spec: ClaimSpec, labels: tuple[tuple[str, str], ...] = ()
    ) -> ClaimPlan:
        """A volume that goes with the pod, named as Kubernetes names it: POD-VOLUME."""
        full = f"{self._facts.name}-{name}"
        if not is_subdomain(full):
            source.wrong("", f"its volume would be called {full!r}, which is too long")
        return ClaimPlan(self._facts.namespace, full, labels, spec, with_pod=True)


def _of_runtime(name: str, claim: ClaimPlan, *, read_only: bool = False) -> VolumePlan:
    return VolumePlan(name, "claim", path=volume_mark(name), claim=claim, read_only=read_only)
