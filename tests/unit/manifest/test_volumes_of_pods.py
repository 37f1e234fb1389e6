"""Volumes of ConfigMaps, Secrets, claims and the pod itself; what owns them; the pod's /etc/hosts."""

# ruff: noqa: E501  # a message is compared as one line

from __future__ import annotations

import textwrap

import pytest

from crib.manifest.faults import ManifestError
from crib.manifest.hosts import hosts_text
from crib.manifest.late import filled
from crib.manifest.load import read_plans
from crib.manifest.plan import Dirs, PodPlan, Site, VolumePlan

SITE = Site(Dirs("/c/pods"), memory=8 << 30, cpus=4, node="node-1", addresses=("192.0.2.7",))
DATA = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {index.html: "<p>", style.css: "p {}"}
---
apiVersion: v1
kind: Secret
metadata: {name: tls}
stringData: {tls.key: KEY, tls.crt: CRT}
"""


def text(volumes: str, container: str = "", spec: str = "") -> str:
    return (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {b: two, a: 'o\"ne'}}\nspec:\n"
        + textwrap.indent(textwrap.dedent(spec), "  ")
        + "  containers:\n  - name: app\n    image: localhost/app:1\n"
        + textwrap.indent(textwrap.dedent(container), "    ")
        + (f"  volumes:\n{textwrap.indent(textwrap.dedent(volumes), '  ')}" if volumes else "")
        + DATA
    )


def pod(volumes: str, container: str = "", spec: str = "") -> PodPlan:
    return read_plans(text(volumes, container, spec), SITE, lambda: "uid-1").pods[0]


def volume(source: str) -> VolumePlan:
    return pod(f"- {{name: v, {source}}}\n").volumes[0]


def files(source: str) -> dict[str, tuple[bytes, int]]:
    return {file.path: (file.content, file.mode) for file in volume(source).files}


def faults(volumes: str, container: str = "", spec: str = "") -> list[str]:
    with pytest.raises(ManifestError) as wrong:
        pod(volumes, container, spec)
    return [str(fault) for fault in wrong.value.faults]


def test_a_config_map_is_a_volume_of_its_keys() -> None:
    assert files("configMap: {name: site}") == {"index.html": (b"<p>", 0o644), "style.css": (b"p {}", 0o644)}
    assert not volume("configMap: {name: site}").memory
    some = "configMap: {name: site, defaultMode: 0400, items: [{key: index.html, path: a/b.html}, {key: style.css, path: c, mode: 0o0755}]}"
    assert files(some.replace("0o0755", "493")) == {"a/b.html": (b"<p>", 0o400), "c": (b"p {}", 0o755)}
    assert files("configMap: {name: none, optional: true}") == {}


def test_a_secret_is_in_memory_only_and_is_not_shown() -> None:
    found = volume("secret: {secretName: tls, defaultMode: 256}")
    assert found.memory
    assert {file.path: file.content for file in found.files} == {"tls.crt": b"CRT", "tls.key": b"KEY"}
    assert "KEY" not in repr(found)


def test_a_pod_may_have_its_labels_and_limits_in_files() -> None:
    found = pod(
        """\
        - name: v
          downwardAPI:
            items:
            - {path: labels, fieldRef: {fieldPath: metadata.labels}}
            - {path: memory, resourceFieldRef: {containerName: app, resource: limits.memory, divisor: 1Ki}}
        """,
        "resources: {limits: {memory: 1Mi}}\n",
    ).volumes[0]
    assert [(file.path, file.content) for file in found.files] == [
        ("labels", b'a="o\\"ne"\nb="two"'),
        ("memory", b"1024"),
    ]


def test_sources_are_projected_together_and_tokens_are_refused() -> None:
    sources = "configMap: {name: site, items: [{key: style.css, path: s.css}]}}, {secret: {name: tls}}, {downwardAPI: {items: [{path: n, fieldRef: {fieldPath: metadata.name}}]}"
    assert sorted(files(f"projected: {{sources: [{{{sources}}}], defaultMode: 0440}}")) == [
        "n",
        "s.css",
        "tls.crt",
        "tls.key",
    ]
    token = "projected: {sources: [{serviceAccountToken: {path: token}}]}"
    assert faults(f"- {{name: v, {token}}}\n") == [
        "spec.volumes[0].projected.sources[0].serviceAccountToken: not supported: there is no API server to give a token"
    ]
    twice = "projected: {sources: [{secret: {name: tls}}, {secret: {name: tls, items: [{key: tls.crt, path: tls.key}]}}]}"
    assert faults(f"- {{name: v, {twice}}}\n") == [
        "spec.volumes[0].projected.sources[1]: the file 'tls.key' is there twice"
    ]


def test_what_a_cluster_mounts_in_every_pod_is_left_out() -> None:
    found = pod(
        """\
        - name: kube-api-access-x7k2p
          projected:
            defaultMode: 420
            sources:
            - serviceAccountToken: {expirationSeconds: 3607, path: token}
            - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
            - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
        """
    )
    assert [file.path for file in found.volumes[0].files] == ["namespace"]
    assert len([note for note in found.notes if "left out" in note]) == 2


def test_generated_volumes_are_read_only_and_their_parts_are_not_made() -> None:
    found = pod(
        "- {name: v, configMap: {name: site}}\n",
        "volumeMounts: [{name: v, mountPath: /a}, {name: v, mountPath: /b.css, subPath: style.css}]\n",
    )
    container = found.containers[0]
    assert [mount.readonly for mount in container.config.mounts] == [True, True]
    assert [(part.inside, part.generated) for part in container.sub_paths] == [("style.css", True)]


def test_a_sub_path_may_be_made_of_variables_and_of_the_pods_address() -> None:
    found = pod(
        "- {name: v, emptyDir: {}}\n",
        """\
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
        volumeMounts: [{name: v, mountPath: /a, subPathExpr: "logs/$(POD)/$(IP)"}]
        """,
    )
    assert filled(found.containers[0], ["10.0.0.9"]).sub_paths[0].inside == "logs/web/10.0.0.9"
    assert faults(
        "- {name: v, emptyDir: {}}\n", "volumeMounts: [{name: v, mountPath: /a, subPathExpr: $(NONE)}]\n"
    ) == ["spec.containers[0].volumeMounts[0].subPathExpr: there is no variable 'NONE'"]


def test_fs_group_owns_what_crib_makes_and_all_containers_are_in_it() -> None:
    found = pod(
        "- {name: e, emptyDir: {}}\n- {name: h, hostPath: {path: /srv}}\n- {name: s, secret: {secretName: tls}}\n",
        spec="securityContext: {fsGroup: 2000, supplementalGroups: [5], fsGroupChangePolicy: OnRootMismatch}\n",
    )
    assert [(volume.name, volume.group, volume.group_always) for volume in found.volumes] == [
        ("e", 2000, False),
        ("h", None, True),
        ("s", 2000, False),
    ]
    assert list(found.containers[0].config.linux.security_context.supplemental_groups) == [2000, 5]
    assert list(found.sandbox.linux.security_context.supplemental_groups) == [2000, 5]


@pytest.mark.parametrize(
    ("volumes", "told"),
    [
        ("- {name: v, configMap: {name: sight}}\n", "spec.volumes[0].configMap.name: there is no ConfigMap 'sight' in namespace default: add it, or name its file by --from"),
        ("- {name: v, configMap: {name: site, items: [{key: x, path: y}]}}\n", "spec.volumes[0].configMap.items[0].key: ConfigMap site has no key 'x'"),
        ("- {name: v, configMap: {name: site, items: [{key: style.css, path: ../y}]}}\n", "spec.volumes[0].configMap.items[0].path: '../y' must be a relative path without '..'"),
        ("- {name: v, secret: {secretName: tls, defaultMode: 0o400}}\n", "spec.volumes[0].secret.defaultMode: must be a whole number, not a string"),
        ("- {name: v, secret: {secretName: tls, defaultMode: 1000}}\n", "spec.volumes[0].secret.defaultMode: 1000 is not between 0 and 511"),
        ("- {name: v, persistentVolumeClaim: {claimName: A}}\n", "spec.volumes[0].persistentVolumeClaim.claimName: 'A' must be at most 253 of a-z, 0-9, '-' and '.'"),
    ],
)  # fmt: skip
def test_a_volume_that_cannot_be_made_is_refused(volumes: str, told: str) -> None:
    assert faults(volumes) == [told]


def test_aliases_and_a_subdomain_are_in_the_pods_own_hosts() -> None:
    found = pod(
        "", spec="hostname: a\nsubdomain: shop\nhostAliases: [{ip: 192.0.2.1, hostnames: [db, db.lan]}]\n"
    )
    assert found.hosts is not None
    assert hosts_text(found.hosts, ["10.0.0.9", "fd00::9"]).splitlines()[-5:] == [
        "10.0.0.9\ta.shop.default.svc.cluster.local\ta",
        "fd00::9\ta.shop.default.svc.cluster.local\ta",
        "",
        "# Entries added by HostAliases.",
        "192.0.2.1\tdb\tdb.lan",
    ]
    (mount,) = found.containers[0].config.mounts
    assert (mount.container_path, mount.host_path) == ("/etc/hosts", "/c/pods/uid-1/etc-hosts")
    assert found.sandbox.hostname == "a"
    assert pod("").hosts is None
    on_host = pod("", spec="hostNetwork: true\nhostAliases: [{ip: 192.0.2.1, hostnames: [db]}]\n")
    assert on_host.hosts is not None
    assert "127.0.0.1 node" in hosts_text(on_host.hosts, [], "127.0.0.1 node\n")


def test_a_pods_name_may_have_its_domain_or_be_another_one() -> None:
    assert (
        pod("", spec="subdomain: s\nsetHostnameAsFQDN: true\n").sandbox.hostname
        == "web.s.default.svc.cluster.local"
    )
    assert pod("", spec="hostnameOverride: any.thing\nhostname: x\n").sandbox.hostname == "any.thing"
    assert faults("", spec="hostnameOverride: a\nhostNetwork: true\n") == [
        "spec.hostnameOverride: cannot be had together with hostNetwork"
    ]
