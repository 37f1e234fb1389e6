"""The spec of an infra process: the pod's own namespaces and confinement, and no rights."""

from __future__ import annotations

from dataclasses import replace

from crib.model.sandbox import IdMapping, NamespaceMode, ProfileType, SecurityProfile, UserNamespace
from crib.ocispec.infra import InfraInputs, PodSecurityFacts, infra_spec, pod_confinement
from crib.wire import oci_runtime as oci
from tests.unit.ocispec.inputs_for_tests import HOST, sandbox

DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
HARD_HOST = replace(HOST, apparmor=True, selinux=True)
FACTS = PodSecurityFacts(frozenset({"crib-default"}), "s0:c7,c9")


def infra_inputs(**fields: object) -> InfraInputs:
    config = sandbox().config
    given = InfraInputs(
        sandbox=sandbox().id,
        config=config,
        host=HOST,
        oci_version="1.0.2",
        root="/run/crib/infra",
        program="catatonit",
        cgroups_path="/crib/pod/infra",
        namespaces={"network": "/ns/net", "uts": "/ns/uts"},
        confinement=pod_confinement(config, HOST, PodSecurityFacts()),
    )
    return replace(given, **fields)  # type: ignore[arg-type]


def test_it_has_no_rights_and_its_pods_namespaces() -> None:
    spec = infra_spec(infra_inputs())
    assert spec.process.args == ("/catatonit", "-P")
    assert (spec.process.user, spec.process.capabilities) == (
        oci.User(uid=65535, gid=65535),
        oci.Capabilities(),
    )
    assert spec.process.no_new_privileges
    assert (spec.root, spec.linux.cgroups_path) == (
        oci.Root("/run/crib/infra", readonly=True),
        "/crib/pod/infra",
    )
    joined = [(namespace.type, namespace.path) for namespace in spec.linux.namespaces]
    assert joined == [("pid", ""), ("mount", ""), ("network", "/ns/net"), ("uts", "/ns/uts")]
    assert spec.annotations == {}
    assert spec.linux.resources == oci.Resources(
        cpu=oci.Cpu(shares=2), devices=(oci.DeviceRule(allow=False),)
    )


def test_one_that_holds_the_pods_containers_says_so_and_has_the_pods_name_and_share_of_the_cpu() -> None:
    config = replace(sandbox().config, hostname="web-0")
    spec = infra_spec(infra_inputs(config=config, holds_containers=True))
    assert spec.annotations["io.kubernetes.cri.container-type"] == "sandbox"
    assert spec.annotations["io.kubernetes.cri.sandbox-id"] == sandbox().id
    assert spec.hostname == "web-0"
    assert spec.linux.resources == oci.Resources(devices=(oci.DeviceRule(allow=False),))


def test_it_runs_as_who_the_pod_says_with_the_pods_ids() -> None:
    config = sandbox().config
    ids = (IdMapping(container_id=0, host_id=70000, length=65536),)
    options = replace(config.security.namespaces, userns=UserNamespace(NamespaceMode.POD, ids, ids))
    security = replace(config.security, run_as_user=7, supplemental_groups=(5,), namespaces=options)
    wanted = replace(config, security=security)
    spec = infra_spec(infra_inputs(config=wanted))
    assert spec.process.user == oci.User(uid=7, gid=7, additional_gids=(5,))
    (mapped,) = spec.linux.uid_mappings
    assert (mapped.host_id, mapped.size) == (70000, 65536)


def test_the_pods_own_profiles_confine_it() -> None:
    config = sandbox().config
    config = replace(config, security=replace(config.security, seccomp=DEFAULT, apparmor=DEFAULT))
    made = pod_confinement(config, HARD_HOST, FACTS)
    assert made.seccomp is not None
    spec = infra_spec(infra_inputs(config=config, host=HARD_HOST, confinement=made, seccomp_filter="AAAA"))
    assert spec.process.apparmor_profile == "crib-default"
    assert spec.process.selinux_label == "system_u:system_r:container_t:s0:c7,c9"
    assert (spec.linux.seccomp, spec.linux.mount_label) == (made.seccomp, made.file_label)
    assert spec.annotations == {"run.oci.seccomp_bpf_data": "AAAA"}
