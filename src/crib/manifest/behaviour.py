"""Probes, hooks and restart policies of a manifest, with Kubernetes' defaults and bounds.

Source: core/v1 (Probe, Lifecycle, ContainerRestartRule) and its validation in Kubernetes 1.36.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crib.manifest import shapes
from crib.manifest.behaviour_plan import (
    Behaviour,
    ExecAction,
    GrpcAction,
    HookAction,
    HttpAction,
    PodBehaviour,
    ProbeAction,
    ProbePlan,
    RestartPolicy,
    RestartRule,
    SleepAction,
    TcpAction,
)
from crib.manifest.faults import ManifestError

if TYPE_CHECKING:
    from crib.manifest.fields import ManifestNode

DEFAULT_GRACE = 30
"""Seconds that a pod's containers get to end when the manifest does not say."""
MAX_SECONDS = 2**31 - 1
MAX_RULES = 20
"""Entries of `restartPolicyRules`."""
MAX_CODES = 255
"""Exit codes of one rule."""
_POLICIES: dict[str, RestartPolicy] = {"Always": "Always", "OnFailure": "OnFailure", "Never": "Never"}
_PORT_NAME = re.compile(r"(?=.{1,15}$)(?=.*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROBES = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "sleep")
_UNKEPT_POD = ("restartPolicy", "activeDeadlineSeconds")
_UNKEPT_CONTAINER = ("restartPolicyRules", "livenessProbe", "readinessProbe", "startupProbe")


def pod_behaviour(spec: ManifestNode) -> PodBehaviour:
    """The pod's own fields."""
    for name in _UNKEPT_POD:
        if spec.has(name) and spec.raw(name) != "Never":
            spec.notes.add_unkept(spec.at(name))
    grace = spec.number("terminationGracePeriodSeconds", 0, MAX_SECONDS)
    return PodBehaviour(
        restart=_POLICIES[spec.choice("restartPolicy", tuple(_POLICIES), "Always")],
        grace=DEFAULT_GRACE if grace is None else grace,
        deadline=spec.number("activeDeadlineSeconds", 1, MAX_SECONDS),
    )


def is_sidecar(node: ManifestNode, *, init: bool) -> bool:
    """Whether it is an init container that keeps running beside the others."""
    return init and node.raw("restartPolicy") == "Always"


def behaviour(node: ManifestNode, pod: PodBehaviour, *, init: bool) -> Behaviour:
    """One container's fields; an init container that is no sidecar has neither probes nor hooks."""
    if init and not is_sidecar(node, init=init):
        for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if node.has(name):
                raise ManifestError(node.at(name), "not for an init container without restartPolicy: Always")
    for name in _UNKEPT_CONTAINER:
        if node.has(name) and not (name == "startupProbe" and is_sidecar(node, init=init)):
            node.notes.add_unkept(node.at(name))
    own = node.choice("restartPolicy", tuple(_POLICIES), pod.restart)
    lifecycle = node.child("lifecycle")
    if lifecycle is not None:
        lifecycle.check(shapes.LIFECYCLE)
    pre_stop = _hook(node, lifecycle, "preStop")
    if isinstance(pre_stop, SleepAction) and pre_stop.seconds > pod.grace:
        where = node.at("lifecycle.preStop.sleep.seconds")
        raise ManifestError(where, f"{pre_stop.seconds} is longer than the grace period of {pod.grace} s")
    # An init container that did its work is not run again, whatever the pod says of containers that end.
    policy = "OnFailure" if init and not is_sidecar(node, init=init) and own == "Always" else own
    return Behaviour(
        restart=_POLICIES[policy],
        rules=_rules(node),
        startup=_probe(node, "startupProbe"),
        liveness=_probe(node, "livenessProbe"),
        readiness=_probe(node, "readinessProbe"),
        post_start=_hook(node, lifecycle, "postStart"),
        pre_stop=pre_stop,
    )


def _rules(container: ManifestNode) -> tuple[RestartRule, ...]:
    nodes = container.children("restartPolicyRules")
    if nodes and not container.has("restartPolicy"):
        raise ManifestError(container.at("restartPolicyRules"), "needs a restartPolicy of the container")
    if len(nodes) > MAX_RULES:
        raise ManifestError(container.at("restartPolicyRules"), f"has more than {MAX_RULES} entries")
    found = []
    for node in nodes:
        node.check(shapes.RESTART_RULE)
        node.need_text("action")
        node.choice("action", ("Restart",), "")
        codes = node.child("exitCodes")
        if codes is None:
            raise ManifestError(node.at("exitCodes"), "is required")
        codes.check(shapes.EXIT_CODES)
        among = codes.choice("operator", ("In", "NotIn"), "") == "In"
        values = codes.numbers("values")
        if not 0 < len(values) <= MAX_CODES:
            raise ManifestError(codes.at("values"), f"must have 1 to {MAX_CODES} entries")
        found.append(RestartRule(frozenset(values), among))
    return tuple(found)


def _probe(container: ManifestNode, name: str) -> ProbePlan | None:
    node = container.child(name)
    if node is None:
        return None
    node.check(shapes.PROBE)
    kind = _one_of(node, _PROBES)
    if node.child(kind) is None:
        return None  # it is no object, and that is told
    grace = node.number("terminationGracePeriodSeconds", 1, MAX_SECONDS)
    if grace is not None and name == "readinessProbe":
        raise ManifestError(node.at("terminationGracePeriodSeconds"), "not for a readinessProbe")
    most = MAX_SECONDS if name == "readinessProbe" else 1
    return ProbePlan(
        action=_probe_action(container, node, kind),
        initial_delay=_number(node, "initialDelaySeconds", 0, 0),
        timeout=_number(node, "timeoutSeconds", 1, 1),
        period=_number(node, "periodSeconds", 1, 10),
        success_threshold=_number(node, "successThreshold", 1, 1, most),
        failure_threshold=_number(node, "failureThreshold", 1, 3),
        grace=grace,
    )


def _number(node: ManifestNode, name: str, low: int, default: int, high: int = MAX_SECONDS) -> int:
    # Kubernetes takes 0 for the default where the field cannot be 0
    value = node.number(name, 0, high)
    return default if not value else max(low, value)


def _probe_action(container: ManifestNode, node: ManifestNode, kind: str) -> ProbeAction:
    source = node.part(kind)
    if kind == "exec":
        return _exec(source)
    if kind == "httpGet":
        return _http(container, source)
    if kind == "tcpSocket":
        source.check(shapes.TCP_SOCKET)
        return TcpAction(_port(container, source), source.text("host"))
    source.check(shapes.GRPC)
    return GrpcAction(_needed(source, "port", 1, 65535), source.text("service"))


def _hook(container: ManifestNode, lifecycle: ManifestNode | None, name: str) -> HookAction | None:
    node = lifecycle.child(name) if lifecycle is not None else None
    if node is None:
        return None
    node.check(shapes.HOOK)
    if node.has("tcpSocket"):
        return None
    kind = _one_of(node, _HOOKS)
    if node.child(kind) is None:
        return None
    source = node.part(kind)
    if kind == "exec":
        return _exec(source)
    if kind == "httpGet":
        return _http(container, source)
    source.check(shapes.SLEEP)
    return SleepAction(_needed(source, "seconds", 0, MAX_SECONDS))


def _needed(node: ManifestNode, name: str, low: int, high: int) -> int:
    if not node.has(name):
        raise ManifestError(node.at(name), "is required")
    return node.number(name, low, high) or low


def _one_of(node: ManifestNode, kinds: tuple[str, ...]) -> str:
    named = [kind for kind in kinds if node.has(kind)]
    if len(named) != 1:
        raise ManifestError(
            node.place, f"needs {'' if named else 'one of '}{_words(kinds, many=bool(named))}"
        )
    return named[0]


def _words(kinds: tuple[str, ...], *, many: bool) -> str:
    return f"only one of {', '.join(kinds)}" if many else ", ".join(kinds)


def _exec(source: ManifestNode) -> ExecAction:
    source.check(shapes.EXEC)
    command = tuple(source.texts("command"))
    if not command:
        raise ManifestError(source.at("command"), "is required")
    return ExecAction(command)


def _http(container: ManifestNode, source: ManifestNode) -> HttpAction:
    source.check(shapes.HTTP_GET)
    headers = []
    for header in source.children("httpHeaders"):
        header.check(shapes.HTTP_HEADER)
        name, value = header.need_text("name"), header.text("value")
        if not _HEADER.fullmatch(name):
            raise ManifestError(header.at("name"), f"{name!r} is not the name of an HTTP header")
        if "\r" in value or "\n" in value:
            raise ManifestError(header.at("value"), "must be one line")
        headers.append((name, value))
    path = source.text("path") or "/"
    if not path.isprintable() or " " in path:
        raise ManifestError(source.at("path"), f"{path!r} must not hold blanks or control characters")
    secure = source.choice("scheme", ("HTTP", "HTTPS"), "HTTP") == "HTTPS"
    return HttpAction(
        port=_port(container, source),
        path=path if path.startswith("/") else f"/{path}",
        scheme="HTTPS" if secure else "HTTP",
        host=source.text("host"),
        headers=tuple(headers),
    )


def _port(container: ManifestNode, source: ManifestNode) -> int:
    """A number, or the name of one of the container's own ports."""
    if not isinstance(source.raw("port"), str):
        return _needed(source, "port", 1, 65535)
    name = source.need_text("port")
    if not _PORT_NAME.fullmatch(name):
        raise ManifestError(source.at("port"), f"{name!r} is neither a port's number nor the name of one")
    for port in container.children("ports"):
        if port.raw("name") == name and (number := port.number("containerPort", 1, 65535)):
            return number
    raise ManifestError(source.at("port"), f"the container has no port {name!r}")
