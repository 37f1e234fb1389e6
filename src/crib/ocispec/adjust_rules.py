"""The built-in validator: what plugins may not change in a container, and which plugins must have seen it.

The rules are those of the NRI project's default validator (plugins/default-validator); `yaml` lists in
annotations are read as that reads them, in the two forms that name plugins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from crib.model.container import ContainerConfig
from crib.model.nri_settings import ValidatorSettings
from crib.model.sandbox import ProfileType, SandboxConfig
from crib.ocispec.adjust_owners import Field, Owners

REQUIRED = "required-plugins.noderesource.dev"
"""Annotation of a pod: more plugins that must have seen its containers."""
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
"""Go's strconv.ParseBool, by which the annotation is read elsewhere."""
_MAX_REQUIRED = 256
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,131}")


def rejections(
    rules: ValidatorSettings,
    pod: SandboxConfig,
    container: ContainerConfig,
    owners: Owners,
    asked: Sequence[str],
) -> Iterator[str]:
    """What the rules have against this container, each as one sentence; nothing where they are off.

    `asked` are the plugins that have been asked about it, as `10-name`.
    """
    if not rules.enable:
        return
    if rules.reject_oci_hooks and owners.hooks:
        yield f"OCI hooks were added by {_named(owners.hooks)}"
    yield from _seccomp(rules, container, owners)
    for is_rejected, field, what in (
        (rules.reject_namespaces, Field.Namespace, "namespace"),
        (rules.reject_sysctls, Field.Sysctl, "sysctl"),
    ):
        changed = owners.of(field) if is_rejected else {}
        for key, plugin in sorted(changed.items()):
            yield f"{what} {key} was changed by {_named((plugin,))}"
    yield from _missing(rules, pod.annotations, container.name, asked)


def _named(plugins: Sequence[str]) -> str:
    return ", ".join(f"NRI plugin {name}" for name in dict.fromkeys(plugins))


def _seccomp(rules: ValidatorSettings, container: ContainerConfig, owners: Owners) -> Iterator[str]:
    plugin = owners.owner(Field.SeccompPolicy)
    if not plugin:
        return
    profile = container.security.seccomp
    kind = ProfileType.UNCONFINED if profile is None else profile.kind
    rejected, called = {
        ProfileType.UNCONFINED: (rules.reject_unconfined_seccomp, "Unconfined"),
        ProfileType.RUNTIME_DEFAULT: (rules.reject_runtime_default_seccomp, "RuntimeDefault"),
        ProfileType.LOCALHOST: (rules.reject_custom_seccomp, "Localhost"),
    }[kind]
    if rejected:
        yield f"the seccomp profile {called} was changed by {_named((plugin,))}"


def _missing(
    rules: ValidatorSettings, annotations: Mapping[str, str], container: str, asked: Sequence[str]
) -> Iterator[str]:
    key = rules.tolerate_missing_annotation
    tolerates = effective(annotations, key, container) if key else None
    if tolerates is not None and tolerates not in _TRUE | _FALSE:
        yield f"annotation {key} is {tolerates[:100]!r}, and not true or false"
        return
    if tolerates in _TRUE:
        return
    required = list(rules.required_plugins)
    text = effective(annotations, REQUIRED, container)
    if text is not None:
        names = listed(text)
        if names is None:
            yield f"annotation {REQUIRED} is {text[:100]!r}, and not a list of plugins"
            return
        required += names
    known = {*asked, *(name.partition("-")[2] for name in asked)}
    for name in dict.fromkeys(required):
        if name not in known:
            yield f"required plugin {name} is not there"


def effective(annotations: Mapping[str, str], key: str, container: str) -> str | None:
    """What a pod's annotation says for one of its containers: KEY/container.NAME, else KEY/pod, else KEY."""
    for name in (f"{key}/container.{container}", f"{key}/pod", key):
        if name in annotations:
            return annotations[name]
    return None


def listed(text: str) -> list[str] | None:
    """A YAML list of plugins: `[a, b]`, or one line `- a` for each; None where it is something else."""
    text = text.strip()
    if not text or text in ("[]", "null", "~"):
        return []
    if text.startswith("[") and text.endswith("]"):
        items = text[1:-1].removesuffix(",").split(",")
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip() not in ("", "---")]
        if any(not line.startswith("- ") for line in lines):
            return None
        items = [line[2:] for line in lines]
    names = [_unquoted(item.strip()) for item in items]
    if len(names) > _MAX_REQUIRED or any(_NAME.fullmatch(name) is None for name in names):
        return None
    return names


def _unquoted(item: str) -> str:
    for quote in ('"', "'"):
        if len(item) > 1 and item[0] == quote == item[-1]:
            return item[1:-1]
    return item
