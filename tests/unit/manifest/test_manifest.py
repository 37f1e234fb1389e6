"""Manifests to CRI requests, and the words with which wrong ones are refused."""

# ruff: noqa: E501, PT017  # a message is compared as one line; any other outcome is fine

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crib.manifest.documents import ManifestText
from crib.manifest.faults import MAX_FAULTS, ManifestError, ManifestPlace
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, HostDns, PodPlan, Site
from crib.stubs.runtime.v1 import api_pb2 as cri

SITE = Site(Dirs("/pods"), memory=16 << 30, dns=HostDns(("9.9.9.9",), ("lan",), ("rotate",)))


def plans(text: str) -> tuple[PodPlan, ...]:
    numbers = iter(range(1, 100))
    manifest = ManifestText("web.yaml", textwrap.dedent(text))
    return read_plans([manifest], SITE, lambda: f"uid-{next(numbers)}").pods


def plan(text: str) -> PodPlan:
    return plans(text)[0]


def pod(spec: str = "", container: str = "", metadata: str = "") -> str:
    """A pod with one container, and more fields of the spec, the container and the metadata."""
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: web{', ' + metadata if metadata else ''}}}\n"
        f"spec:\n  containers:\n  - name: app\n    image: localhost/app:1\n"
        + textwrap.indent(textwrap.dedent(container), "    ")
        + textwrap.indent(textwrap.dedent(spec), "  ")
    )


FULL = """
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  uid: 1234-abcd
  labels: {tier: front}
  annotations: {note: hello}
spec:
  hostname: shop-web
  runtimeClassName: fast
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  shareProcessNamespace: true
  securityContext:
    runAsUser: 1000
    runAsGroup: 1000
    supplementalGroups: [5, 6]
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
  initContainers:
  - name: page
    image: localhost/demo:latest
    command: [sh, -c, "echo hi > /www/index.html"]
    volumeMounts: [{name: www, mountPath: /www}]
  - name: side
    image: localhost/demo:latest
    restartPolicy: Always
  containers:
  - name: server
    image: localhost/demo:latest
    imagePullPolicy: Never
    command: [httpd, -f]
    args: [-p, $(PORT), $(NONE), $$(PORT)]
    workingDir: /www
    env: [{name: PORT, value: "80"}, {name: URL, value: "http://x:$(PORT)"}]
    ports: [{containerPort: 80, hostPort: 8088, name: http}, {containerPort: 53, protocol: UDP}]
    resources:
      requests: {cpu: 250m, memory: 32Mi}
      limits: {cpu: 1, memory: 64Mi}
    volumeMounts:
    - {name: www, mountPath: /www, readOnly: true}
    - {name: www, mountPath: /cache, subPath: cache/deep}
    - {name: host, mountPath: /host, mountPropagation: HostToContainer}
    securityContext:
      runAsUser: 0
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {add: [NET_ADMIN], drop: [ALL]}
      seccompProfile: {type: Unconfined}
    lifecycle: {stopSignal: SIGUSR1}
    livenessProbe: {httpGet: {path: /, port: 80}}
  volumes:
  - {name: www, emptyDir: {}}
  - {name: shm, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: host, hostPath: {path: /srv, type: Directory}}
"""


def test_a_pod_becomes_a_sandbox() -> None:
    found = plan(FULL)
    sandbox = found.sandbox
    assert (found.label, found.uid, found.handler, found.directory) == (
        "shop/web",
        "1234-abcd",
        "fast",
        "/pods/1234-abcd",
    )
    assert sandbox.hostname == "shop-web"
    assert sandbox.log_directory == "/pods/1234-abcd/logs"
    assert dict(sandbox.labels) == {
        "tier": "front",
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": "1234-abcd",
    }
    assert dict(sandbox.annotations) == {"note": "hello"}
    assert [(p.container_port, p.host_port, p.protocol) for p in sandbox.port_mappings] == [
        (80, 8088, cri.TCP),
        (53, 0, cri.UDP),
    ]
    assert dict(sandbox.linux.sysctls) == {"net.ipv4.ip_unprivileged_port_start": "0"}
    security = sandbox.linux.security_context
    assert security.namespace_options.pid == cri.POD
    assert security.run_as_user.value == 1000
    assert not sandbox.HasField("dns_config")


def test_a_container_becomes_a_container() -> None:
    found = plan(FULL).containers[0]
    config = found.config
    assert found.pull == "Never"
    assert list(config.command) == ["httpd", "-f"]
    assert list(config.args) == ["-p", "80", "$(NONE)", "$(PORT)"]
    assert [(e.key, e.value) for e in config.envs] == [("PORT", b"80"), ("URL", b"http://x:80")]
    assert config.working_dir == "/www"
    assert config.log_path == "server/0.log"
    assert config.stop_signal == cri.SIGNAL_SIGUSR1
    assert config.annotations["io.kubernetes.pod.terminationGracePeriod"] == "5"
    resources = config.linux.resources
    assert (resources.cpu_shares, resources.cpu_quota, resources.cpu_period) == (256, 100_000, 100_000)
    assert resources.memory_limit_in_bytes == 64 << 20
    assert 3 <= resources.oom_score_adj <= 999
    security = config.linux.security_context
    assert security.run_as_user.value == 0
    assert security.run_as_group.value == 1000
    assert security.no_new_privs
    assert security.readonly_rootfs
    assert security.seccomp.profile_type == cri.SecurityProfile.Unconfined
    assert "/proc/kcore" in security.masked_paths
    assert list(security.supplemental_groups) == [5, 6]


def test_mounts_and_volumes_become_mounts_of_paths_below_the_pods_directory() -> None:
    found = plan(FULL)
    mounts = found.containers[0].config.mounts
    assert [(m.container_path, m.host_path, m.readonly) for m in mounts] == [
        ("/www", "/pods/1234-abcd/volumes/www", True),
        ("/cache", "/pods/1234-abcd/subpaths/server/1", False),
        ("/host", "/srv", False),
    ]
    assert [m.selinux_relabel for m in mounts] == [True, True, False], "what crib makes is the pod's"
    assert mounts[2].propagation == cri.PROPAGATION_HOST_TO_CONTAINER
    part = found.containers[0].sub_paths[0]
    assert (part.volume, part.inside) == ("/pods/1234-abcd/volumes/www", "cache/deep")
    kinds = {volume.name: (volume.kind, volume.memory, volume.size) for volume in found.volumes}
    assert kinds["shm"] == ("emptyDir", True, 1 << 20)


def test_init_containers_keep_their_order_and_sidecars_are_told_apart() -> None:
    found = plan(FULL).init_containers
    assert [(c.name, c.sidecar) for c in found] == [("page", False), ("side", True)]


def test_fields_without_effect_are_noted() -> None:
    found = plan(FULL)
    assert found.notes == ()
    assert found.unkept == ("spec.containers[0].livenessProbe",)
    found = plan(pod("nodeSelector: {a: b}\nrestartPolicy: Always\n"))
    assert found.notes == ("spec.nodeSelector: no effect: there is no scheduler here",)


def test_defaults_are_a_kubelets() -> None:
    found = plan(pod())
    security = found.containers[0].config.linux.security_context
    assert found.namespace == "default"
    assert found.sandbox.hostname == "web"
    assert security.namespace_options.pid == cri.CONTAINER
    assert security.seccomp.profile_type == cri.SecurityProfile.RuntimeDefault
    assert not security.no_new_privs
    resources = found.containers[0].config.linux.resources
    assert (resources.cpu_shares, resources.cpu_quota, resources.oom_score_adj) == (2, 0, 1000)


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("docker.io/library/nginx", "Always"),
        ("docker.io/library/nginx:latest", "Always"),
        ("docker.io/library/nginx:1.27", "IfNotPresent"),
        ("reg.example:5000/nginx", "Always"),
        ("localhost/demo:latest", "IfNotPresent"),
        ("nginx@sha256:" + "a" * 64, "IfNotPresent"),
    ],
)
def test_the_pull_policys_default_follows_the_tag(image: str, policy: str) -> None:
    found = plan(pod().replace("localhost/app:1", image))
    assert found.containers[0].pull == policy


def test_a_pod_whose_limits_are_its_requests_is_guaranteed() -> None:
    found = plan(pod(container="resources: {limits: {cpu: 500m, memory: 1Gi}}\n"))
    resources = found.containers[0].config.linux.resources
    assert (resources.oom_score_adj, resources.cpu_shares, resources.cpu_quota) == (-997, 512, 50_000)


def test_a_pod_has_the_resources_of_its_containers_and_its_overhead() -> None:
    linux = plan(FULL).sandbox.linux
    assert (linux.resources.cpu_quota, linux.resources.memory_limit_in_bytes) == (0, 0), "not all are limited"
    assert linux.resources.cpu_shares == 256
    assert not linux.HasField("overhead")
    limited = "resources: {limits: {cpu: 500m, memory: 1Gi}}\n"
    found = plan(pod("overhead: {cpu: 100m, memory: 8Mi}\n", limited))
    linux = found.sandbox.linux
    assert (linux.resources.cpu_quota, linux.resources.memory_limit_in_bytes) == (50_000, 1 << 30)
    assert (linux.overhead.cpu_quota, linux.overhead.memory_limit_in_bytes) == (10_000, 8 << 20)
    assert not found.own_resources
    assert plan(pod()).sandbox.linux.resources == cri.LinuxContainerResources(cpu_shares=2)


def test_a_pods_own_resources_hold_for_it_and_for_containers_without_limits() -> None:
    found = plan(pod("resources: {limits: {cpu: 2, memory: 1Gi}}\n"))
    assert found.own_resources
    for linux in (found.sandbox.linux.resources, found.containers[0].config.linux.resources):
        assert (linux.cpu_quota, linux.memory_limit_in_bytes) == (200_000, 1 << 30)
    assert not plan(pod("resources: {}\n")).own_resources


def test_the_hosts_network_maps_no_ports_and_has_no_hostname() -> None:
    found = plan(pod("hostNetwork: true\nhostPID: true\n", "ports: [{containerPort: 80}]\n"))
    assert not found.sandbox.port_mappings
    assert found.sandbox.hostname == ""
    options = found.sandbox.linux.security_context.namespace_options
    assert (options.network, options.pid, options.ipc) == (cri.NODE, cri.NODE, cri.POD)


def test_dns_is_the_hosts_with_additions_or_its_own() -> None:
    config = "dnsConfig: {nameservers: [1.1.1.1], options: [{name: ndots, value: '2'}]}\n"
    dns = plan(pod(f"dnsPolicy: None\n{config}")).sandbox.dns_config
    assert (list(dns.servers), list(dns.options)) == (["1.1.1.1"], ["ndots:2"])
    dns = plan(pod(f"dnsPolicy: Default\n{config}")).sandbox.dns_config
    assert list(dns.servers) == ["9.9.9.9", "1.1.1.1"]
    assert (list(dns.searches), list(dns.options)) == (["lan"], ["rotate", "ndots:2"])


def test_an_image_volume_is_a_read_only_mount_of_an_image() -> None:
    found = plan(
        pod(
            "volumes: [{name: data, image: {reference: 'reg/data:1'}}]\n",
            "volumeMounts: [{name: data, mountPath: /data, subPath: inner, bindMountOptions: [noexec]}]\n",
        )
    )
    mount = found.containers[0].config.mounts[0]
    assert (mount.image.image, mount.readonly, mount.image_sub_path) == ("reg/data:1", True, "inner")
    assert mount.mount_options == ["noexec"]
    assert not found.containers[0].sub_paths


def test_several_documents_and_lists_are_several_pods() -> None:
    two = pod() + "---\n" + pod().replace("name: web", "name: db")
    assert [p.label for p in plans(two)] == ["default/web", "default/db"]
    listed = "apiVersion: v1\nkind: List\nitems:\n- " + textwrap.indent(pod(), "  ")[2:]
    assert [p.label for p in plans(listed)] == ["default/web"]


MOUNTED = "volumes: [{name: a, emptyDir: {}}]\n"
BAD = [
    (pod(container="imagee: x\n"), "spec.containers[0].imagee: unknown field; the nearest known name is image"),
    (pod("zzz: 1\n"), "spec.zzz: unknown field"),
    (pod(metadata="label: {}"), "metadata.label: unknown field; the nearest known name is labels"),
    (pod().replace("image: localhost/app:1", ""), "spec.containers[0].image: is required"),
    (pod().replace("name: web", "name: Web"), "metadata.name: 'Web' must be at most 253 of a-z, 0-9, '-' and '.'"),
    (pod(metadata="uid: ../x"), "metadata.uid: '../x' must be at most 64 letters, digits and '-'"),
    (pod().replace("kind: Pod", "kind: Deploymnet"), "kind: 'Deploymnet' is not known; the nearest known kind is Deployment"),
    (pod().replace("v1", "v2", 1), "apiVersion: 'v2' is not v1"),
    (
        pod(container="env: [{name: A, value: 8080}]\n"),
        "spec.containers[0].env[0].value: must be a string, not a number; put it in quotes",
    ),
    (pod("volumes: [{name: a, nfs: {path: x}}]\n"), "spec.volumes[0].nfs: not supported: crib mounts none itself: use a CSI driver, or a hostPath where the node has it mounted"),
    (
        pod("volumes: [{name: a}]\n"),
        "spec.volumes[0]: needs one of emptyDir, hostPath, image, configMap, secret, downwardAPI, projected, persistentVolumeClaim, ephemeral, csi",
    ),
    (
        pod("volumes: [{name: a, emptyDir: {}, hostPath: {path: /}}]\n"),
        "spec.volumes[0]: has more than one of emptyDir, hostPath",
    ),
    (
        pod("volumes: [{name: a, hostPath: {path: /a/../../etc}}]\n"),
        "spec.volumes[0].hostPath.path: '/a/../../etc' must not hold '..'",
    ),
    (
        pod(container="volumeMounts: [{name: b, mountPath: /a}]\n"),
        "spec.containers[0].volumeMounts[0].name: the pod has no volume 'b'",
    ),
    (
        pod(
            "volumes: [{name: a, emptyDir: {}}]\n",
            "volumeMounts: [{name: a, mountPath: /a, bindMountOptions: [exec]}]\n",
        ),
        "spec.containers[0].volumeMounts[0].bindMountOptions: 'exec' is not one of nodev, noexec, nosuid",
    ),
    (
        pod("volumes: [{name: a, emptyDir: {}}]\n", "volumeMounts: [{name: a, mountPath: /a, subPath: ../b}]\n"),
        "spec.containers[0].volumeMounts[0].subPath: '../b' must not hold '..'",
    ),
    (
        pod("volumes: [{name: a, emptyDir: {}}]\n", "volumeMounts: [{name: a, mountPath: /a, subPath: /b}]\n"),
        "spec.containers[0].volumeMounts[0].subPath: '/b' must be a relative path",
    ),
    (
        pod(container="resources: {limits: {memory: 64MB}}\n"),
        "spec.containers[0].resources.limits.memory: '64MB' is not a quantity; write for example 500m, 64Mi or 2",
    ),
    (
        pod(container="resources: {requests: {cpu: 2}, limits: {cpu: 1}}\n"),
        "spec.containers[0].resources.requests.cpu: is greater than the limit",
    ),
    (
        pod("resources: {limits: {memory: 1Mi}}\n", "resources: {limits: {memory: 2Mi}}\n"),
        "spec.containers[0].resources.limits.memory: is greater than the pod's",
    ),
    (
        pod("resources: {requests: {cpu: 1}}\n", "resources: {requests: {cpu: 2}}\n"),
        "spec.resources.requests.cpu: is less than what the containers ask for together",
    ),
    (pod("overhead: {cpu: x}\n"), "spec.overhead.cpu: 'x' is not a quantity; write for example 500m, 64Mi or 2"),
    (
        pod(container="resources: {limits: {'example.com/gpu': 1}}\n"),
        "spec.containers[0].resources.limits.example.com/gpu: not supported: crib run knows cpu and memory",
    ),
    (
        pod("securityContext: {runAsNonRoot: true, runAsUser: 0}\n"),
        "spec.securityContext.runAsNonRoot: contradicts runAsUser: 0",
    ),
    (
        pod(container="securityContext: {privileged: true, allowPrivilegeEscalation: false}\n"),
        "spec.containers[0].securityContext.allowPrivilegeEscalation: cannot be false for a privileged container",
    ),
    (
        pod("hostPID: true\nshareProcessNamespace: true\n"),
        "spec.shareProcessNamespace: cannot be had together with hostPID",
    ),
    (pod("hostUsers: false\nhostPID: true\n"), "spec.hostPID: cannot be had together with hostUsers: false"),
    (pod("hostUsers: false\nhostIPC: true\n"), "spec.hostIPC: cannot be had together with hostUsers: false"),
    (
        pod("hostUsers: false\nvolumes: [{name: v, persistentVolumeClaim: {claimName: c}}]\n", container="volumeDevices: [{name: v, devicePath: /dev/v}]\n"),
        "spec.containers[0].volumeDevices: cannot be had together with hostUsers: false",
    ),
    (pod(container="ports: [{containerPort: 0}]\n"), "spec.containers[0].ports[0].containerPort: 0 is not between 1 and 65535"),
    (
        pod(container="ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81, hostPort: 80}]\n"),
        "spec.containers[0].ports[1].hostPort: 80 is there twice",
    ),
    (pod(container="livenessProbe: {httpGet: false}\n"), "spec.containers[0].livenessProbe.httpGet: must be an object, not a boolean"),
    (pod("dnsPolicy: None\n"), "spec.dnsConfig: is required with dnsPolicy: None"),
    (pod("restartPolicy: never\n"), "spec.restartPolicy: 'never' is not one of Always, OnFailure, Never"),
    (pod(container="command: sleep\n"), "spec.containers[0].command: must be a list, not a string"),
    (pod(container="command: [sleep, 10]\n"), "spec.containers[0].command[1]: must be a string, not a number; put it in quotes"),
    (pod(container="tty: maybe\n"), "spec.containers[0].tty: must be true or false, not a string"),
    (pod("hostNetwork: true\nhostNetwork: false\n"), "the name 'hostNetwork' is there twice"),
    (pod("volumes: [{name: a, image: {}}]\n"), "spec.volumes[0].image.reference: is required"),
    (pod("volumes: [{name: a, emptyDir: {medium: HugePages}}]\n"), "spec.volumes[0].emptyDir.medium: not supported: volumes of huge pages need a kubelet"),
    (pod("volumes: [{name: a, emptyDir: {sizeLimit: -1}}]\n"), "spec.volumes[0].emptyDir.sizeLimit: '-1' must not be negative"),
    (pod("volumes: [{name: a, hostPath: {path: a}}]\n"), "spec.volumes[0].hostPath.path: 'a' must be an absolute path"),
    (pod("volumes: [{name: a, emptyDir: {}}, {name: a, emptyDir: {}}]\n"), "spec.volumes[1].name: volume 'a' is there twice"),
    (pod(MOUNTED, "volumeMounts: [{name: a, mountPath: 'x:y'}]\n"), "spec.containers[0].volumeMounts[0].mountPath: 'x:y' must not hold a colon"),
    (pod(MOUNTED, "volumeMounts: [{name: a, mountPath: /a}, {name: a, mountPath: /a/}]\n"), "spec.containers[0].volumeMounts[1].mountPath: /a is mounted twice"),
    (pod(MOUNTED, "volumeMounts: [{name: a, mountPath: /a, mountPropagation: Bidirectional}]\n"), "spec.containers[0].volumeMounts[0].mountPropagation: Bidirectional needs a privileged container"),
    (pod(MOUNTED, "volumeMounts: [{name: a, mountPath: /a, recursiveReadOnly: Enabled}]\n"), "spec.containers[0].volumeMounts[0].recursiveReadOnly: Enabled needs readOnly: true"),
    (pod(container="lifecycle: {stopSignal: TERM}\n"), "spec.containers[0].lifecycle.stopSignal: 'TERM' is not a signal such as SIGTERM"),
    (pod("initContainers: [{name: app, image: b}]\n"), "spec.containers[0].name: container 'app' is there twice"),
    (pod(container="securityContext: {seccompProfile: {type: Localhost}}\n"), "spec.containers[0].securityContext.seccompProfile.localhostProfile: goes with type: Localhost, and only with it"),
    (pod(container="securityContext: {seccompProfile: {type: Localhost, localhostProfile: ../x}}\n"), "spec.containers[0].securityContext.seccompProfile.localhostProfile: '../x' must be a relative path without '..'"),
    (pod(container="securityContext: {allowPrivilegeEscalation: false, capabilities: {add: [SYS_ADMIN]}}\n"), "spec.containers[0].securityContext.allowPrivilegeEscalation: cannot be false with the capability SYS_ADMIN"),
    (pod("securityContext: {sysctls: [{name: a}, {name: a}]}\n"), "spec.securityContext.sysctls[1].name: sysctl 'a' is there twice"),
    (pod("os: {name: windows}\n"), "spec.os.name: not supported: crib runs Linux pods only"),
    (pod("hostNetwork: true\n", "ports: [{containerPort: 80, hostPort: 81}]\n"), "spec.containers[0].ports[0].hostPort: must equal containerPort on the host's network"),
    (pod(container="ports: [{containerPort: 80, hostIP: localhost}]\n"), "spec.containers[0].ports[0].hostIP: 'localhost' is not an IP address"),
    (pod(container="ports: [{hostPort: 80}]\n"), "spec.containers[0].ports[0].containerPort: is required"),
    (pod(container="env: [{name: A=B}]\n"), "spec.containers[0].env[0].name: 'A=B' is not the name of an environment variable"),
    (pod(metadata="labels: {a: 1}"), "metadata.labels.a: must be a string, not a number; put it in quotes"),
    (pod(metadata="labels: {1: a}"), "metadata.labels: the name 1 must be a string; put it in quotes"),
    ("a: [", "not YAML: expected the node content, but found '<stream end>'"),
    ("", "the manifest holds no pod"),
    ("- a\n", "must be an object, not a list"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: a}\n", "spec: is required"),
    (pod() + "---\n" + pod(), "metadata.name: pod default/web is there twice"),
    ("!!python/object/apply:os.system ['x']\n", "not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message for _, message in BAD])
def test_a_wrong_manifest_is_refused_with_the_path_and_the_reason(text: str, message: str) -> None:
    with pytest.raises(ManifestError) as wrong:
        plans(text)
    (fault,) = wrong.value.faults
    assert str(replace(fault, place=ManifestPlace(fault.place.path))) == message
    assert bool(fault.place.line) == (fault.place.file != ""), "a fault of a file has a line"


def test_all_faults_of_all_documents_are_told_in_the_order_of_the_file() -> None:
    text = """\
        apiVersion: v1
        kind: Pod
        metadata: {name: Web, lables: {}}
        spec:
          hostNetwork: maybe
          containers:
          - name: app
            image: 5
            ports:
            - containerPort: 80
              protocol: tcp
            - {hostPort: 8080}
          - name: side
            command: sleep
        ---
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {containers: [{nam: c, image: d}]}}
        """
    with pytest.raises(ManifestError) as wrong:
        plans(text)
    assert str(wrong.value).splitlines() == [
        "web.yaml:3:12: metadata.name: 'Web' must be at most 253 of a-z, 0-9, '-' and '.'",
        "web.yaml:3:23: metadata.lables: unknown field; the nearest known name is labels",
        "web.yaml:5:3: spec.hostNetwork: must be true or false, not a string",
        "web.yaml:8:5: spec.containers[0].image: must be a string, not a number; put it in quotes",
        "web.yaml:11:7: spec.containers[0].ports[0].protocol: 'tcp' is not one of TCP, UDP, SCTP",
        "web.yaml:12:7: spec.containers[0].ports[1].containerPort: is required",
        "web.yaml:13:5: spec.containers[1].image: is required",
        "web.yaml:14:5: spec.containers[1].command: must be a list, not a string",
        "web.yaml:19:73: items[0].spec.containers[0].nam: unknown field; the nearest known name is name",
    ]


def test_a_fault_in_what_an_anchor_or_a_merge_brought_is_where_it_was_written() -> None:
    text = pod("hostPID: &yes 1\nhostIPC: *yes\n", "securityContext: {<<: &base {tty: 1}, runAsUser: 1}\n")
    with pytest.raises(ManifestError) as wrong:
        plans(text)
    assert [str(fault.place) for fault in wrong.value.faults] == [
        "web.yaml:8:34: spec.containers[0].securityContext.tty",
        "web.yaml:9:3: spec.hostPID",
        "web.yaml:10:3: spec.hostIPC",
    ]


def test_there_is_an_end_to_faults() -> None:
    text = pod("".join(f"zz{number}: 1\n" for number in range(500)))
    with pytest.raises(ManifestError) as wrong:
        plans(text)
    assert len(wrong.value.faults) == MAX_FAULTS + 1
    assert str(wrong.value.faults[-1]) == "there may be more than 100 faults: mend these first"


def test_faults_of_several_files_name_their_files() -> None:
    texts = [ManifestText("b.yaml", pod("x: 1\n")), ManifestText("a.yaml", "a: [")]
    with pytest.raises(ManifestError) as wrong:
        read_plans(texts, SITE)
    assert str(wrong.value).splitlines() == [
        "b.yaml:8:3: spec.x: unknown field",
        "a.yaml:1:5: not YAML: expected the node content, but found '<stream end>'",
    ]


def test_what_looks_like_a_time_is_a_string_as_in_kubernetes() -> None:
    found = plan(pod(container="args: [2026-01-31, 12:30:00, 2001-12-14t21:59:43.10-05:00]\n"))
    assert list(found.containers[0].config.args) == ["2026-01-31", "12:30:00", "2001-12-14t21:59:43.10-05:00"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(["metadata", "spec", "spec.containers", "spec.volumes", "spec.securityContext"]),
)
def test_nothing_but_a_manifest_error_comes_of_nonsense(value: object, where: str) -> None:
    import yaml

    document = yaml.safe_load(pod())
    target = document
    *path, last = where.split(".")
    for name in path:
        target = target[name]
    target[last] = value
    try:
        plans(yaml.safe_dump(document))
    except ManifestError as wrong:
        assert all("\n" not in str(fault) for fault in wrong.faults)


EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_the_examples_are_good_manifests(path: Path) -> None:
    found = plans(path.read_text())
    assert {plan.name.partition("-")[0] for plan in found} == {path.stem}
    assert not any(plan.notes for plan in found)
