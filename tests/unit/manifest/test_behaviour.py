"""Probes, hooks and restart policies as a manifest has them."""

# ruff: noqa: E501  # a message is compared as one line

from __future__ import annotations

import re
import textwrap

import pytest

from crib.manifest.behaviour_plan import (
    Behaviour,
    ExecAction,
    GrpcAction,
    HttpAction,
    PodBehaviour,
    ProbePlan,
    RestartRule,
    SleepAction,
    TcpAction,
)
from crib.manifest.faults import ManifestError
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, PodPlan, Site

SITE = Site(Dirs("/pods"), memory=16 << 30)


def plan(spec: str = "", container: str = "", init: str = "") -> PodPlan:
    """A pod with one container, and perhaps an init container, with these further fields."""
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n"
    if init:
        text += "  initContainers:\n  - name: first\n    image: i\n" + _block(init, 4)
    text += "  containers:\n  - name: app\n    image: i\n" + _block(container, 4) + _block(spec, 2)
    return read_plans(text, SITE, lambda: "u1").pods[0]


def _block(text: str, width: int) -> str:
    return textwrap.indent(textwrap.dedent(text).strip("\n") + "\n", " " * width) if text else ""


def refusal(spec: str = "", container: str = "", init: str = "") -> str:
    with pytest.raises(ManifestError) as caught:
        plan(spec, container, init)
    return str(caught.value)


def test_without_a_word_everything_is_kubernetes_default() -> None:
    found = plan()
    assert found.behaviour == PodBehaviour(restart="Always", grace=30, deadline=None)
    assert found.containers[0].behaviour == Behaviour(restart="Always")
    assert found.unkept == ()


def test_probes_of_every_kind_with_their_numbers() -> None:
    found = plan(
        container="""
        ports: [{name: http-alt, containerPort: 8080}]
        startupProbe: {tcpSocket: {port: http-alt}, failureThreshold: 30, periodSeconds: 2}
        livenessProbe:
          exec: {command: [cat, /ok]}
          initialDelaySeconds: 3
          timeoutSeconds: 4
          terminationGracePeriodSeconds: 5
        readinessProbe:
          httpGet: {port: http-alt, path: ready, scheme: HTTPS, host: x.test, httpHeaders: [{name: A, value: b}]}
          successThreshold: 2
    """
    )
    assert found.containers[0].behaviour == Behaviour(
        startup=ProbePlan(TcpAction(8080), failure_threshold=30, period=2),
        liveness=ProbePlan(ExecAction(("cat", "/ok")), initial_delay=3, timeout=4, grace=5),
        readiness=ProbePlan(
            HttpAction(8080, "/ready", "HTTPS", "x.test", (("A", "b"),)), success_threshold=2
        ),
    )
    assert found.unkept == tuple(
        f"spec.containers[0].{name}" for name in ("livenessProbe", "readinessProbe", "startupProbe")
    )
    found = plan(container="livenessProbe: {grpc: {port: 9, service: db}, periodSeconds: 0}")
    assert found.containers[0].behaviour.liveness == ProbePlan(GrpcAction(9, "db"), period=10)


def test_hooks_and_grace() -> None:
    found = plan(
        "terminationGracePeriodSeconds: 9\nactiveDeadlineSeconds: 60\nrestartPolicy: OnFailure",
        """
        lifecycle:
          postStart: {httpGet: {port: 80}}
          preStop: {sleep: {seconds: 9}}
        """,
    )
    assert found.behaviour == PodBehaviour(restart="OnFailure", grace=9, deadline=60)
    own = found.containers[0].behaviour
    assert (own.post_start, own.pre_stop) == (HttpAction(80), SleepAction(9))
    assert found.unkept[:2] == ("spec.restartPolicy", "spec.activeDeadlineSeconds")


def test_whose_restart_policy_holds() -> None:
    found = plan(
        "restartPolicy: Never",
        """
        restartPolicy: OnFailure
        restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [0, 42]}}]
        """,
        "restartPolicy: Always",
    )
    first, app = found.init_containers[0], found.containers[0]
    assert first.sidecar
    assert first.behaviour.restart == "Always"
    assert app.behaviour.rules == (RestartRule(frozenset({0, 42}), True),)
    assert [code for code in (0, 1, 42) if app.behaviour.restarts_after(code)] == [0, 1, 42]
    plain = plan(init="command: [x]").init_containers[0]
    assert not plain.sidecar
    assert not plain.behaviour.restarts_after(0)
    assert plain.behaviour.restarts_after(1)
    assert (
        not plan("restartPolicy: Never", init="command: [x]").init_containers[0].behaviour.restarts_after(1)
    )


def test_the_kept_document_comes_to_the_same_pod() -> None:
    found = plan("restartPolicy: OnFailure", "livenessProbe: {exec: {command: ['yes']}}")
    again = read_plans(found.document, SITE, lambda: "another").pods[0]
    assert again == found


@pytest.mark.parametrize(
    ("container", "text"),
    [
        ("livenessProbe: {}", "spec.containers[0].livenessProbe: needs one of exec, httpGet, tcpSocket, grpc"),
        ("livenessProbe: {exec: {command: [a]}, grpc: {port: 1}}", "spec.containers[0].livenessProbe: needs only one of exec, httpGet, tcpSocket, grpc"),
        ("livenessProbe: {exec: {command: []}}", "spec.containers[0].livenessProbe.exec.command: is required"),
        ("livenessProbe: {tcpSocket: {port: web}}", "spec.containers[0].livenessProbe.tcpSocket.port: the container has no port 'web'"),
        ("livenessProbe: {tcpSocket: {port: 0}}", "spec.containers[0].livenessProbe.tcpSocket.port: 0 is not between 1 and 65535"),
        ("livenessProbe: {tcpSocket: {port: '80'}}", "spec.containers[0].livenessProbe.tcpSocket.port: '80' is neither a port's number nor the name of one"),
        ("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}", "spec.containers[0].livenessProbe.successThreshold: 2 is not between 0 and 1"),
        ("readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 2}", "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: not for a readinessProbe"),
        ("readinessProbe: {tcpSocket: {port: 1}, timeout: 2}", "spec.containers[0].readinessProbe.timeout: unknown field; the nearest known name is timeoutSeconds"),
        ("livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: 'a b', value: c}]}}", "spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name: 'a b' is not the name of an HTTP header"),
        ('livenessProbe: {httpGet: {port: 1, httpHeaders: [{name: a, value: "c\\r\\nd: e"}]}}', "spec.containers[0].livenessProbe.httpGet.httpHeaders[0].value: must be one line"),
        ('livenessProbe: {httpGet: {port: 1, path: "/a\\r\\nb"}}', "spec.containers[0].livenessProbe.httpGet.path: '/a\\r\\nb' must not hold blanks or control characters"),
        ("lifecycle: {preStop: {tcpSocket: {port: 1}}}", "spec.containers[0].lifecycle.preStop.tcpSocket: not supported: Kubernetes has never run it as a hook"),
        ("lifecycle: {preStop: {sleep: {seconds: 31}}}", "spec.containers[0].lifecycle.preStop.sleep.seconds: 31 is longer than the grace period of 30 s"),
        ("restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]", "spec.containers[0].restartPolicyRules: needs a restartPolicy of the container"),
        ("restartPolicy: Never\nrestartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [1]}}]", "spec.containers[0].restartPolicyRules[0].action: 'RestartAllContainers' is not one of Restart"),
        ("restartPolicy: Never\nrestartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: []}}]", "spec.containers[0].restartPolicyRules[0].exitCodes.values: must have 1 to 255 entries"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_containers_behaviour_is_named(container: str, text: str) -> None:
    assert refusal(container=container) == text


def test_an_init_container_that_ends_has_no_probes_and_hooks() -> None:
    wanted = "spec.initContainers[0].startupProbe: not for an init container without restartPolicy: Always"
    assert refusal(init="startupProbe: {tcpSocket: {port: 1}}") == wanted
    assert plan(init="restartPolicy: Always\nstartupProbe: {tcpSocket: {port: 1}}").init_containers[0].sidecar


def test_a_deadline_is_a_positive_number() -> None:
    assert re.match(
        r"spec.activeDeadlineSeconds: 0 is not between 1 and", refusal("activeDeadlineSeconds: 0")
    )
