"""The inputs of a container's spec one at a time: what each is called, and the inputs without it.

The walk goes by the fields of the dataclasses, so an input that is added is a source without a word here.
What has its default was not asked for and is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any

from crib.model.edits import ContainerEdits
from crib.ocispec.inputs import ContainerInputs, HookRule

LIMITS = 5
"""Sources of this tier and beyond say what can be; those before it what is wanted."""
_CONTAINER, _IMAGE, _POD, _EDITS, _BASE, _HANDLER, _HOST = range(7)
_CHANGE = "~"
_MANY = 100
"""Elements of one field that are listed singly; more are listed together: each costs a run of the recipe."""
_NUMBER = re.compile(r"(?<=:)\d{1,9}(?=:)")
"""An id in passwd(5) and group(5)."""
_LAST_NUMBER = re.compile(r"\d{1,9}$")
"""The category of an SELinux level, which takes no other change."""

_CRI_NAMES = {
    "security": "linux.security_context",
    "resources": "linux.resources",
    "namespaces": "namespace_options",
    "add": "add_capabilities",
    "drop": "drop_capabilities",
    "add_ambient": "add_ambient_capabilities",
    "dns": "dns_config",
    "userns": "userns_options",
    "cgroup_parent": "linux.cgroup_parent",
    "sysctls": "linux.sysctls",
    "cdi_devices": "CDI_devices",
}
"""Our name of a field to that in the CRI's messages, where they differ."""
_IMAGE_NAMES = {
    "entrypoint": "ENTRYPOINT",
    "cmd": "CMD",
    "env": "ENV",
    "user": "USER",
    "working_dir": "WORKDIR",
    "volumes": "VOLUME",
    "labels": "LABEL",
    "stop_signal": "STOPSIGNAL",
}
_PLACES = ("container_path", "path", "destination")
"""The field of an element that says where it goes."""
_NO_SOURCE = {"host.capabilities", "handler.name", "handler.program", "handler.version"}
"""What everything passes through, without which there would be nothing."""
_CONTEXT = "container linux.security_context"
_DEVICES = "container devices"
_NODE_MOUNTS = "setting containers.mounts"
_OWN_LABELS = {
    "id": ("container id", _POD),
    "root": ("container id", _POD),
    "target_pid": (f"{_CONTEXT}.namespace_options.target_id", _CONTAINER),
    "devices": (_DEVICES, _CONTAINER),
    "node_mounts": (_NODE_MOUNTS, _HANDLER),
    "node_devices": ("setting containers.devices", _HANDLER),
    "default_seccomp": ("setting containers.seccomp_profile", _BASE),
    "seccomp_profile": (f"{_CONTEXT}.seccomp", _CONTAINER),
    "seccomp_filter": ("handler, from the profile's last use", _HANDLER),
    "selinux_level": ("pod SELinux level", _POD),
    "declared_volumes": ("image VOLUME", _IMAGE),
    "cdi": ("CDI", _EDITS),
    "hook_rules": ("hook file", _EDITS),
    "edits": ("edits", _EDITS),
    "base_spec": ("base spec", _BASE),
    "blockio_classes": ("host block I/O classes", _HOST),
    "rdt_classes": ("host RDT classes", _HOST),
    "device_ownership": ("setting device_ownership_from_security_context", _HANDLER),
    "pids_limit": ("setting pids_limit", _HANDLER),
    "profiles": ("host AppArmor profiles", _HOST),
    "default_hostname": ("host name", _HOST),
    "mount_sources": ("host, where the paths lead", _HOST),
    "locked_options": ("host, where the paths are mounted", _HOST),
    "submounts": ("host, what is mounted below the paths", _HOST),
}
"""What the fields of the inputs themselves stand for; one that is not listed is the handler's."""


@dataclass(frozen=True, slots=True)
class SpecInput:
    """An input; `variants` are the inputs with it changed or without it, to be tried in this order, once."""

    label: str
    tier: int
    variants: Iterator[ContainerInputs]
    chooses: bool = False
    """It says which of several things holds, and so is not listed beside what that thing is made of."""


def sources(inputs: ContainerInputs) -> Iterator[SpecInput]:
    """Every input that is there, the most particular first."""
    found = (part.source for part in _walk_inputs(inputs))
    yield from sorted(found, key=lambda source: source.tier)


@dataclass(frozen=True, slots=True)
class _Part:
    """A value inside the inputs: what it is called, what stands for it, and how to put that in its place."""

    label: str
    tier: int
    stand_ins: tuple[Any, ...]
    put: Callable[[Any], ContainerInputs]

    @property
    def source(self) -> SpecInput:
        chooses = any(isinstance(value, Enum) for value in self.stand_ins)
        return SpecInput(self.label, self.tier, map(self.put, self.stand_ins), chooses)


def _walk_inputs(inputs: ContainerInputs) -> Iterator[_Part]:
    for field in fields(ContainerInputs):
        value = getattr(inputs, field.name)

        def put(new: Any, name: str = field.name) -> ContainerInputs:
            return replace(inputs, **{name: new})

        match field.name:
            case "config":
                yield from _walk(value, "container ", _CONTAINER, put, _CRI_NAMES)
            case "image":
                yield from _walk(value, "image ", _IMAGE, put, _IMAGE_NAMES)
            case "sandbox":
                yield from _walk_sandbox(inputs)
            case "rootfs":
                names = {"passwd": "/etc/passwd", "group": "/etc/group", "init": "init system"}
                yield from _walk(value, "image ", _IMAGE, put, names)
            case "pod":
                yield from _walk(value, "pod ", _POD, put, {})
            case "host":
                yield from _walk(value, "host ", _HOST, put, {})
            case "options":
                for part in _walk(value, "handler ", _HANDLER, put, {}):
                    yield replace(
                        part, label=part.label.replace("handler containers.", "setting containers.")
                    )
            case "handler":
                yield from _walk(value, "handler ", _HANDLER, put, {})
            case _:
                yield from _own_field(inputs, field, value, put)


def _walk_sandbox(inputs: ContainerInputs) -> Iterator[_Part]:
    record = inputs.sandbox

    def put_config(new: Any) -> ContainerInputs:
        return replace(inputs, sandbox=replace(record, config=new))

    yield from _walk(record.config, "pod ", _POD, put_config, _CRI_NAMES)
    if record.config.user_namespace is not None:
        label = "pod linux.security_context.namespace_options.userns_options"
        yield _Part(label, _POD, (None,), lambda _: _without_user_namespace(inputs))
    yield _Part(
        "pod id",
        _POD,
        (f"{record.id}{_CHANGE}",),
        lambda new: replace(inputs, sandbox=replace(record, id=new)),
    )


def _without_user_namespace(inputs: ContainerInputs) -> ContainerInputs:
    """Everywhere at once, as the container and its mounts may not differ from the pod."""
    record, config = inputs.sandbox, inputs.config
    pod, context = record.config.security, config.security
    pod = replace(pod, namespaces=replace(pod.namespaces, userns=None))
    context = replace(context, namespaces=replace(context.namespaces, userns=None))
    mounts = tuple(replace(mount, uid_mappings=(), gid_mappings=()) for mount in config.mounts)
    return replace(
        inputs,
        sandbox=replace(record, config=replace(record.config, security=pod)),
        config=replace(config, security=context, mounts=mounts),
    )


def _own_field(
    inputs: ContainerInputs, field: Field[Any], value: Any, put: Callable[[Any], ContainerInputs]
) -> Iterator[_Part]:
    """A field of the inputs themselves: found on the host, or made by the handler."""
    if _has_default(field, value):
        return
    label, tier = _own_label(inputs, field.name)
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        labels = [_element_label(inputs, label, element) for element in value]
        for named in dict.fromkeys(labels):  # a privileged container has hundreds of devices
            others = tuple(one for one, its in zip(value, labels, strict=True) if its != named)
            yield _Part(named, tier, (others,), put)
    else:
        yield _Part(label, tier, (*_stand_ins(value), *_defaults(field)), put)


def _own_label(inputs: ContainerInputs, name: str) -> tuple[str, int]:
    if name == "cgroups_path":
        asked = inputs.sandbox.config.cgroup_parent
        return ("pod linux.cgroup_parent" if asked else "setting cgroup_root"), _POD
    return _OWN_LABELS.get(name, (f"handler {name}", _HANDLER))


def _element_label(inputs: ContainerInputs, label: str, element: Any) -> str:
    """Devices are named by the request's device that they belong to, edits by their origin."""
    path = str(getattr(element, "path", ""))
    if label == _DEVICES and path:
        for position, device in enumerate(inputs.config.devices):
            place = device.container_path or device.host_path
            if path == place or path.startswith(f"{place.rstrip('/')}/"):
                return f"{label}[{position}]"
        return f"{_CONTEXT}.privileged" if inputs.privileged else label
    if label == _NODE_MOUNTS and element.destination not in _destinations(inputs):
        return "setting containers.timezone"
    edits = element.edits if isinstance(element, HookRule) else element
    return edits.origin if isinstance(edits, ContainerEdits) else label


def _destinations(inputs: ContainerInputs) -> list[str]:
    return [mount.destination for mount in inputs.options.containers.mounts]


def _walk(
    value: Any, prefix: str, tier: int, put: Callable[[Any], ContainerInputs], names: Mapping[str, str]
) -> Iterator[_Part]:
    """The fields of a dataclass that were set, each as a source."""
    for field in fields(value):
        child = getattr(value, field.name)
        if _has_default(field, child) or f"{prefix.strip()}.{field.name}" in _NO_SOURCE:
            continue
        label = f"{prefix}{names.get(field.name, field.name)}"

        def put_child(new: Any, name: str = field.name) -> ContainerInputs:
            return put(replace(value, **{name: new}))

        if is_dataclass(child) and not isinstance(child, type):
            if _defaults(field) == (None,):
                yield _Part(label, tier, (None, *_other_values(child)), put_child)
            else:
                yield from _walk(child, f"{label}.", tier, put_child, names)
        elif isinstance(child, (tuple, Mapping)) and len(child) > _MANY:
            yield _Part(label, tier, (*_stand_ins(child)[:1], *_defaults(field)), put_child)
        elif isinstance(child, tuple) and child and not isinstance(child[0], (str, int)):
            for position in range(len(child)):
                yield _element(child, position, f"{label}[{position}]", tier, put_child)
        elif isinstance(child, Mapping):
            for key in child:
                rest = {other: item for other, item in child.items() if other != key}
                changed = [{**child, key: item} for item in _stand_ins(child[key])[:1]]
                yield _Part(f"{label}[{key}]", tier, (*changed, rest), put_child)
        else:
            yield _Part(label, tier, (*_stand_ins(child), *_defaults(field)), put_child)


def _element(
    elements: tuple[Any, ...], position: int, label: str, tier: int, put: Callable[[Any], ContainerInputs]
) -> _Part:
    """One of many: moved and plain, so that what goes by its position stays right; else taken out."""
    element = elements[position]
    others: list[Any] = []
    if isinstance(element, tuple):  # a variable: its name and value
        label = f"{label.rpartition('[')[0]}[{element[0]}]"
        others = [(element[0], *(stand_in for part in element[1:] for stand_in in _stand_ins(part)[:1]))]
    elif is_dataclass(element) and not isinstance(element, type):
        places = {
            place: f"{getattr(element, place)}{_CHANGE}" for place in _PLACES if hasattr(element, place)
        }
        plain = {
            field.name: default
            for field in fields(element)
            for default in _defaults(field)
            if not isinstance(getattr(element, field.name), str)
        }
        others = [replace(element, **plain, **places), replace(element, **places)] if places else []
    before, after = elements[:position], elements[position + 1 :]
    stand_ins = (*((*before, other, *after) for other in others), (*before, *after))
    return _Part(label, tier, stand_ins, put)


def _has_default(field: Field[Any], value: Any) -> bool:
    return any(type(value) is type(default) and value == default for default in _defaults(field))


def _defaults(field: Field[Any]) -> tuple[Any, ...]:
    """The field's default, if it has one."""
    if field.default is not MISSING:
        return (field.default,)
    return (field.default_factory(),) if field.default_factory is not MISSING else ()


def _other_values(value: Any) -> tuple[Any, ...]:
    """A dataclass with one field changed, for each that is a text."""
    texts = {field.name: getattr(value, field.name) for field in fields(value)}
    return tuple(
        replace(value, **{name: other})
        for name, text in texts.items()
        if isinstance(text, str) and text
        for other in _stand_ins(text)[:3]
    )


def _next(number: re.Match[str]) -> str:
    return str(int(number[0]) + 1)


def _stand_ins(value: Any) -> tuple[Any, ...]:
    """Other values of the same kind; which of them are taken is for the recipe to say."""
    match value:
        case bool():
            return (not value,)
        case Enum():
            return tuple(other for other in type(value) if other is not value)
        case int():
            return (2 * value + 1, value + 1, 0)
        case str():
            return (f"{value}{_CHANGE}", _NUMBER.sub(_next, value), _LAST_NUMBER.sub(_next, value), "")
        case bytes():
            return (value + _CHANGE.encode(), b"")
        case tuple():
            changed = tuple(other for item in value for other in _stand_ins(item)[:1])
            return (changed, ()) if len(changed) == len(value) else ((),)
        case _:
            return ()
