"""What a volume is to be: the class fills in what was not said, and what its kind cannot is refused. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from crib.model.errors import InvalidRequest, WrongState
from crib.model.volume_settings import VolumeSettings
from crib.model.volumes import CSI, Reclaim, VolumeRecord, VolumeSpec
from crib.ports.volumes import KindFacts


def filled(spec: VolumeSpec, reclaim: Reclaim | None, settings: VolumeSettings) -> VolumeSpec:
    """What was asked for, laid over its class.

    InvalidRequest for a class that is not configured, or says something else.
    """
    name = _class_of(spec, settings)
    if not name:
        if not spec.kind:
            raise InvalidRequest("none is named, and volumes.default_class is empty", field="storage_class")
        return replace(spec, reclaim=reclaim or Reclaim.DELETE)
    found = settings.all_classes.get(name)
    if found is None:
        known = ", ".join(sorted(settings.all_classes))
        text = f"no class {name!r} is configured in volumes.classes (there is: {known})"
        raise InvalidRequest(text, field="storage_class")
    for field in ("kind", "driver"):
        said, fixed = getattr(spec, field), getattr(found, field)
        if said and said != fixed:
            raise InvalidRequest(f"is {said!r}, and class {name!r} has {fixed or 'none'!r}", field=field)
    return replace(
        spec,
        kind=found.kind,
        driver=found.driver,
        storage_class=name,
        parameters={**found.parameters, **spec.parameters},
        fs_type=spec.fs_type or found.fs_type,
        mount_options=spec.mount_options or found.mount_options,
        secrets={**found.secrets, **spec.secrets},
        reclaim=reclaim or Reclaim(found.reclaim),
    )


def refuse_what_cannot_be(spec: VolumeSpec, facts: KindFacts) -> None:
    """WrongState where the kind, or the driver, cannot make such a volume; it names the field."""
    whose = f"driver {spec.driver}" if spec.kind == CSI else f"kind {spec.kind}"
    if spec.block and not facts.block:
        raise WrongState(f"{whose} has no raw devices", field="block")
    if not (spec.block or facts.files):
        raise WrongState(f"{whose} has raw devices only", field="block")
    if not facts.access_modes.intersection(spec.access_modes):
        can = ", ".join(sorted(facts.access_modes))
        asked = ", ".join(spec.access_modes)
        raise WrongState(f"{whose} cannot be used as {asked}, only as {can}", field="access_modes")
    if spec.snapshot and not facts.snapshots:
        raise WrongState(f"{whose} has no snapshots", field="snapshot")
    if spec.clone_of and not facts.clones:
        raise WrongState(f"{whose} has no clones", field="clone_of")


def warnings_about(spec: VolumeSpec, facts: KindFacts) -> Iterator[str]:
    """What holds only in part."""
    if spec.capacity and facts.sizes:
        yield f"its size of {spec.capacity} bytes is not a limit: {facts.sizes}"


def abilities(facts: KindFacts) -> tuple[str, ...]:
    """What can be done with such a volume, in words, and its access modes."""
    words = {
        "files": facts.files,
        "block": facts.block,
        "size limit": not facts.sizes,
        "resize": facts.expands,
        "snapshots": facts.snapshots,
        "clones": facts.clones,
        "write": facts.writable,
        "outlive a boot": facts.lasting,
    }
    return (*(word for word, holds in words.items() if holds), *sorted(facts.access_modes))


_FIXED = (
    "kind",
    "storage_class",
    "driver",
    "parameters",
    "source",
    "snapshot",
    "clone_of",
    "access_modes",
    "block",
    "fs_type",
    "mount_options",
    "owner",
    "inline",
)
"""What makes two volumes of a name different ones. Labels, secrets and what becomes of it do not."""


def difference(record: VolumeRecord, asked: VolumeSpec, settings: VolumeSettings) -> str:
    """How the volume that is there differs from what is asked for; empty: it will do.

    What its class gave it holds, whatever the class says by now.
    """
    has = record.spec
    is_same_class = bool(has.storage_class) and has.storage_class == _class_of(asked, settings)
    wanted = _laid_over(has, asked) if is_same_class else filled(asked, None, settings)
    for field in _FIXED:
        was, now = getattr(has, field), getattr(wanted, field)
        if was != now:
            return f"its {field} is {_shown(was)}, not {_shown(now)}"
    if 0 < record.capacity < asked.capacity:
        return f"it has {record.capacity} bytes, not {asked.capacity}: resize it"
    return ""


def _laid_over(has: VolumeSpec, asked: VolumeSpec) -> VolumeSpec:
    """What is asked for, with what is there in place of what was not said."""
    return replace(
        asked,
        kind=asked.kind or has.kind,
        storage_class=has.storage_class,
        driver=asked.driver or has.driver,
        parameters={**has.parameters, **asked.parameters},
        fs_type=asked.fs_type or has.fs_type,
        mount_options=asked.mount_options or has.mount_options,
    )


def _class_of(spec: VolumeSpec, settings: VolumeSettings) -> str:
    """Where a kind is named, there is a class only if one is named."""
    return spec.storage_class or ("" if spec.kind else settings.default_class)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return repr(str(value)) if isinstance(value, str) else str(value)
