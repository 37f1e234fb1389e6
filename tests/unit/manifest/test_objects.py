"""ConfigMaps, Secrets and the downward API in a pod's environment; which documents come to pods."""

# ruff: noqa: E501  # a message is compared as one line

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest

from crib.manifest.documents import ManifestText
from crib.manifest.faults import ManifestError
from crib.manifest.late import filled, waits_for_address
from crib.manifest.load import read_plans
from crib.manifest.objects import without_secrets
from crib.manifest.plan import ContainerPlan, Dirs, Plans, PodPlan, Site

SITE = Site(Dirs("/pods"), memory=8 << 30, cpus=4, node="node-1", addresses=("192.0.2.7", "2001:db8::7"))

DATA = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: red, LEVEL: "7"}
binaryData: {logo: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
type: Opaque
data: {password: aHVudGVyMg==}
stringData: {user: admin}
"""


def read(text: str, *extra: str, site: Site = SITE) -> Plans:
    numbers = iter(range(1, 200))
    texts = [ManifestText("a.yaml", textwrap.dedent(text))]
    texts += [
        ManifestText(f"from{n}.yaml", textwrap.dedent(more), is_data=True) for n, more in enumerate(extra)
    ]
    return read_plans(texts, site, lambda: f"uid-{next(numbers)}")


def pod(container: str, spec: str = "") -> str:
    head = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: shop}, annotations: {a/b: c}}\nspec:\n"
    body = "  containers:\n  - name: app\n    image: localhost/app:1\n"
    return (
        head
        + textwrap.indent(textwrap.dedent(spec), "  ")
        + body
        + textwrap.indent(textwrap.dedent(container), "    ")
    )


def env(container: ContainerPlan) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in container.config.envs}


def faults(text: str, *extra: str) -> list[str]:
    with pytest.raises(ManifestError) as wrong:
        read(text, *extra)
    return [f"{fault.place.path}: {fault.message}" for fault in wrong.value.faults]


ENV = """\
envFrom:
- {prefix: S_, configMapRef: {name: settings}}
- {secretRef: {name: absent, optional: true}}
env:
- {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: COLOUR}}}
- {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
- {name: URL, value: "http://$(USER_NAME):$(PASSWORD)@db/$(S_LEVEL)"}
- {name: USER_NAME, valueFrom: {secretKeyRef: {name: login, key: user}}}
- {name: NONE, valueFrom: {secretKeyRef: {name: login, key: none, optional: true}}}
args: [--as, "$(USER_NAME)", "$(NONE)", "$$(USER_NAME)"]
"""


@pytest.mark.parametrize("apart", [False, True])
def test_variables_come_of_config_maps_and_secrets(apart: bool) -> None:
    found = read(pod(ENV), DATA) if apart else read(pod(ENV) + DATA)
    (container,) = found.pods[0].containers
    assert env(container) == {
        "S_COLOUR": b"red",
        "S_LEVEL": b"7",
        "COLOUR": b"red",
        "PASSWORD": b"hunter2",
        "URL": b"http://$(USER_NAME):hunter2@db/7",
        "USER_NAME": b"admin",
    }
    assert list(container.config.args) == ["--as", "admin", "$(NONE)", "$(USER_NAME)"]
    assert found.pods[0].notes == (
        "spec.containers[0].envFrom[1].secretRef: left out: there is no Secret 'absent' here (optional)",
        "spec.containers[0].env[4].valueFrom.secretKeyRef: left out: Secret login has no key 'none' (optional)",
    )


def test_a_plan_that_is_only_shown_has_nothing_of_a_secret() -> None:
    found = read(pod(ENV) + DATA, site=replace(SITE, hide_secrets=True)).pods[0]
    text = str(found.containers[0].config)
    assert "hunter2" not in text
    assert "admin" not in text
    assert env(found.containers[0])["URL"] == b"http://$(USER_NAME):<secret login: password>@db/7"


DOWNWARD = """\
env:
- {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: NS, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}}
- {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
- {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['a/b']"}}}
- {name: NO_NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['none']"}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: ACCOUNT, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
- {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
- {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
- {name: BIND, value: "$(IP):80"}
- {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
- {name: CPU_M, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
- {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
args: ["--advertise=$(BIND)"]
resources: {requests: {cpu: 250m}, limits: {cpu: 1500m}}
"""


def test_a_pod_may_know_itself_and_its_addresses_are_filled_in_when_they_are_known() -> None:
    (container,) = read(pod(DOWNWARD)).pods[0].containers
    assert waits_for_address(container)
    known = filled(container, ["10.1.2.3", "fd00::3"])
    assert {key: value.decode() for key, value in env(known).items()} == {
        "NAME": "web",
        "NS": "default",
        "POD_UID": "uid-1",
        "APP": "shop",
        "NOTE": "c",
        "NO_NOTE": "",
        "NODE": "node-1",
        "ACCOUNT": "default",
        "HOST": "192.0.2.7",
        "HOSTS": "192.0.2.7,2001:db8::7",
        "IP": "10.1.2.3",
        "IPS": "10.1.2.3,fd00::3",
        "BIND": "10.1.2.3:80",
        "CPU": "2",
        "CPU_M": "250",
        "MEM": "8192",
    }
    assert list(known.config.args) == ["--advertise=10.1.2.3:80"]
    assert not waits_for_address(known)
    assert filled(known, ["10.9.9.9"]) is known


def test_on_the_hosts_network_a_pods_address_is_the_nodes() -> None:
    (container,) = read(pod(DOWNWARD, "hostNetwork: true\n")).pods[0].containers
    assert env(container)["IPS"] == b"192.0.2.7,2001:db8::7"
    assert not waits_for_address(container)


@pytest.mark.parametrize(
    ("container", "told"),
    [
        (
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: settngs, key: COLOUR}}}]\n",
            ["spec.containers[0].env[0].valueFrom.configMapKeyRef.name: there is no ConfigMap 'settngs' in namespace default: add it, or name its file by --from"],
        ),
        (
            "env: [{name: A, valueFrom: {secretKeyRef: {name: login, key: pasword}}}]\n",
            ["spec.containers[0].env[0].valueFrom.secretKeyRef.key: Secret login has no key 'pasword'; the nearest known name is password"],
        ),
        (
            "env: [{name: A, value: b, valueFrom: {}}]\n",
            ["spec.containers[0].env[0].valueFrom: cannot be had together with a value",
             "spec.containers[0].env[0].valueFrom: needs one of configMapKeyRef, secretKeyRef, fieldRef, resourceFieldRef"],
        ),
        (
            "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}]\n",
            ["spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: 'limits.gpu' is not one of limits or requests of cpu or memory"],
        ),
        ("envFrom: [{prefix: A}]\n", ["spec.containers[0].envFrom[0]: needs one of configMapRef, secretRef"]),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(container: str, told: list[str]) -> None:
    assert faults(pod(container) + DATA) == told


def test_a_secret_that_is_wrong_is_told_without_what_it_holds() -> None:
    text = "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'hunter2!', 'b/c': aGk=}\nstringData: {d: 12345}\n"
    assert faults(pod("") + text) == [
        "data.a: is not base64; write plain text under stringData",
        "data.b/c: 'b/c' must be at most 253 of letters, digits, '-', '_' and '.'",
        "stringData.d: must be a string, not a number; put it in quotes",
    ]


def test_an_object_of_another_namespace_is_not_the_pods() -> None:
    text = (
        pod("envFrom: [{configMapRef: {name: c}}]\n")
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: x}\n"
    )
    assert faults(text) == [
        "spec.containers[0].envFrom[0].configMapRef.name: there is no ConfigMap 'c' in namespace default; there is one in namespace x"
    ]


WORKLOAD = """\
apiVersion: {version}
kind: {kind}
metadata: {{name: web, namespace: shop}}
spec:
{more}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers: [{{name: app, image: "localhost/app:1", env: [{{name: WHO, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]}}]
"""


def workload(kind: str, version: str = "apps/v1", more: str = "") -> str:
    return WORKLOAD.format(kind=kind, version=version, more=textwrap.indent(textwrap.dedent(more), "  "))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (workload("Deployment", more="replicas: 3\nselector: {matchLabels: {app: web}}"), ["web-0", "web-1", "web-2"]),
        (workload("Deployment"), ["web-0"]),
        (workload("Deployment", more="replicas: 0"), []),
        (workload("ReplicaSet", more="replicas: 2"), ["web-0", "web-1"]),
        (workload("ReplicationController", "v1", "replicas: 1"), ["web-0"]),
        (workload("StatefulSet", more="replicas: 2\nordinals: {start: 5}\nserviceName: w"), ["web-5", "web-6"]),
        (workload("DaemonSet"), ["web"]),
    ],
)  # fmt: skip
def test_workloads_come_to_pods_of_their_template(text: str, names: list[str]) -> None:
    found = read(text)
    assert [plan.label for plan in found.pods] == [f"shop/{name}" for name in names]
    assert len({plan.uid for plan in found.pods}) == len(names)
    for plan in found.pods:
        assert plan.sandbox.labels["app"] == "web"
        assert env(plan.containers[0])["WHO"] == plan.name.encode()


def test_a_cron_job_is_run_once() -> None:
    text = """\
        apiVersion: batch/v1
        kind: CronJob
        metadata: {name: nightly}
        spec:
          schedule: "0 3 * * *"
          jobTemplate:
            spec:
              backoffLimit: 2
              template:
                spec: {restartPolicy: Never, containers: [{name: app, image: "localhost/app:1"}]}
        """
    found = read(text)
    assert [plan.label for plan in found.pods] == ["default/nightly"]
    assert "CronJob default/nightly is run once, now: its schedule has no effect" in found.notes


def test_a_fault_in_a_template_is_told_once_and_where_it_is() -> None:
    text = workload("Deployment", more="replicas: 3").replace("image:", "imag:")
    with pytest.raises(ManifestError) as wrong:
        read(text)
    assert str(wrong.value) == (
        "a.yaml:9:32: spec.template.spec.containers[0].imag: unknown field; the nearest known name is image"
    )


def test_replicas_cannot_share_a_port_of_the_node() -> None:
    text = workload("Deployment", more="replicas: 2").replace(
        "name: app,", "name: app, ports: [{containerPort: 80, hostPort: 80}],"
    )
    assert faults(text) == ["spec.replicas: more than one pod cannot have the node's port 80 (hostPort)"]


def test_what_is_about_a_cluster_is_left_out_with_a_note() -> None:
    others = "".join(
        f"---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{anything: [1]}}\n"
        for kind, version in [
            ("Service", "v1"),
            ("Ingress", "networking.k8s.io/v1"),
            ("ServiceMonitor", "monitoring.coreos.com/v1"),
        ]
    )
    found = read(pod("") + others)
    assert len(found.pods) == 1
    assert found.notes == tuple(
        f"{kind} x is left out: crib runs pods" for kind in ("Service", "Ingress", "ServiceMonitor")
    )
    assert faults("apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n") == [
        "kind: 'Servce' is not known; the nearest known kind is Service"
    ]


def test_a_generated_name_is_of_the_uid() -> None:
    found = read(
        "apiVersion: v1\nkind: Pod\nmetadata: {generateName: job-}\nspec: {containers: [{name: a, image: b}]}\n"
    )
    name = found.pods[0].name
    assert name.startswith("job-")
    assert len(name) == 9
    again = read(found.pods[0].document)
    assert again.pods[0].name == name


def test_items_of_a_typed_list_need_not_say_what_they_are() -> None:
    found = read(
        "apiVersion: v1\nkind: PodList\nitems:\n- {metadata: {name: a}, spec: {containers: [{name: a, image: b}]}}\n"
    )
    assert [plan.name for plan in found.pods] == ["a"]


def _comparable(plan: PodPlan) -> tuple[object, ...]:
    return plan.sandbox, plan.containers, plan.volumes, plan.document


@pytest.mark.parametrize("text", [pod(ENV) + DATA, workload("StatefulSet", more="serviceName: w")])
def test_what_is_kept_of_a_pod_comes_to_it_again_by_itself(text: str) -> None:
    first = read(text).pods[0]
    again = read_plans(first.document, SITE, lambda: "never").pods[0]
    assert _comparable(again) == _comparable(first)


def test_what_is_kept_of_a_pod_without_its_secrets_tells_of_the_same_pod() -> None:
    (plan,) = read(
        pod("""
            env:
            - {name: USER, valueFrom: {secretKeyRef: {name: login, key: user}}}
            lifecycle: {preStop: {exec: {command: [bye]}}}
            """)
        + DATA
    ).pods
    kept = without_secrets(plan.document)
    assert "hunter2" not in kept
    assert "aHVudGVyMg" not in kept
    assert "admin" not in kept
    (again,) = read(kept).pods
    assert again.uid == plan.uid
    assert again.containers[0].behaviour == plan.containers[0].behaviour
    assert env(again.containers[0]) == {"USER": b""}
