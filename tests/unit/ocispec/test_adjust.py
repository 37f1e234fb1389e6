"""Answers of several plugins about one container, and the built-in validator of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crib.model.container import ContainerConfig
from crib.model.edits import AddedHook, ContainerEdits, Removals, SetNamespace
from crib.model.ids import ContainerId
from crib.model.nri_settings import ValidatorSettings
from crib.model.plugins import ContainerUpdate, Eviction, PluginOrders
from crib.model.resource_change import ResourceChange
from crib.model.sandbox import ProfileType, SandboxConfig, SecurityProfile
from crib.ocispec.adjust import Answers, NodePluginAnswer
from crib.ocispec.adjust_owners import Contradiction, Field, Owners
from crib.ocispec.adjust_rules import REQUIRED, effective, listed, rejections
from tests.unit.ocispec.inputs_for_tests import inputs, sandbox

OWN, OTHER = ContainerId("c" * 64), ContainerId("d" * 64)


def update(
    plugin: str, container: ContainerId = OTHER, *, ignore: bool = False, **limits: object
) -> NodePluginAnswer:
    change = ResourceChange(**limits)  # type: ignore[arg-type] # any field of it
    return NodePluginAnswer(
        plugin, orders=PluginOrders((ContainerUpdate(container, change, plugin, ignore),))
    )


def test_updates_of_one_container_by_several_plugins_become_one() -> None:
    answers = Answers(OWN)
    answers.add(update("10-a", cpu_shares=5, unified={"a.b": "1"}, ignore=True))
    answers.add(update("20-b", memory_limit=7, unified={"c.d": "2"}))
    (made,) = answers.orders.updates
    assert made.change == ResourceChange(cpu_shares=5, memory_limit=7, unified={"a.b": "1", "c.d": "2"})
    assert (made.plugin, made.ignore_failure) == ("10-a, 20-b", False)


def test_two_updates_of_the_same_limit_contradict_each_other() -> None:
    answers = Answers(OWN)
    answers.add(update("10-a", cpuset_cpus="0", hugepage_limits={"2MB": 1}))
    with pytest.raises(Contradiction, match='plugins "20-b" and "10-a" both tried to set CPUSetCPUs'):
        answers.add(update("20-b", cpuset_cpus="1"))
    with pytest.raises(Contradiction, match='"10-a" both tried to set HugepageLimits 2MB'):
        answers.add(update("20-b", hugepage_limits={"2MB": 1}))
    answers.add(update("20-b", OWN, cpuset_cpus="1"))


def test_an_update_that_may_fail_gives_way_and_changes_nothing() -> None:
    answers = Answers(OWN)
    answers.add(update("10-a", cpu_shares=5))
    answers.add(update("20-b", cpu_shares=6, cpu_quota=9, ignore=True))
    answers.add(update("30-c", cpu_quota=8))
    (made,) = answers.orders.updates
    assert made.change == ResourceChange(cpu_shares=5, cpu_quota=8)


def test_an_update_of_the_container_itself_comes_on_top_of_what_the_client_wants() -> None:
    asked = ResourceChange(cpu_shares=1, cpu_quota=2)
    answers = Answers(OWN, asked)
    assert answers.change is None
    answers.add(update("10-a", OTHER, cpu_shares=9))
    assert answers.change is None
    answers.add(update("20-b", OWN, cpu_shares=5))
    assert answers.change == ResourceChange(cpu_shares=5, cpu_quota=2)
    assert [one.container for one in answers.orders.updates] == [OTHER]


def test_a_container_cannot_be_updated_while_it_is_created() -> None:
    with pytest.raises(Contradiction, match=f'plugin "10-a" asked update of "{OWN}" during creation'):
        Answers(OWN, creating=True).add(update("10-a", OWN, cpu_shares=9))


def test_a_container_is_evicted_once_for_the_first_reason() -> None:
    answers = Answers(OWN)
    for plugin in ("10-a", "20-b"):
        orders = PluginOrders(evictions=(Eviction(OTHER, f"says {plugin}", plugin),))
        answers.add(NodePluginAnswer(plugin, orders=orders))
    assert answers.orders.evictions == (Eviction(OTHER, "says 10-a", "10-a"),)


def test_a_contradiction_leaves_the_owners_as_they_were() -> None:
    owners = Owners()
    owners.take("10-a", ContainerEdits("", env=(("A", "1"),)))
    before = dict(owners.claims)
    with pytest.raises(Contradiction):
        owners.take("20-b", ContainerEdits("", annotations=(("k", "v"),), env=(("A", "2"),)))
    assert owners.claims == before


SECCOMP = ContainerEdits("NRI 10-a", seccomp=b"{}")
HOOK = ContainerEdits("NRI 10-a", hooks=(AddedHook("poststop", "/bin/x"),))
NAMESPACE = ContainerEdits("NRI 10-a", namespaces=(SetNamespace("ipc"),))
NO_NAMESPACE = ContainerEdits("NRI 10-a", removed=Removals(namespaces=("ipc",)))
SYSCTL = ContainerEdits("NRI 10-a", sysctls=(("kernel.x", "1"),))


def verdict(
    rules: ValidatorSettings,
    edits: ContainerEdits | None = None,
    *,
    config: ContainerConfig | None = None,
    annotations: dict[str, str] | None = None,
    asked: tuple[str, ...] = ("10-a",),
) -> list[str]:
    owners = Owners()
    if edits is not None:
        owners.take("10-a", edits)
    pod: SandboxConfig = replace(sandbox().config, annotations=annotations or {})
    return list(rejections(rules, pod, config or inputs().config, owners, asked))


def with_seccomp(kind: ProfileType | None) -> ContainerConfig:
    config = inputs().config
    profile = None if kind is None else SecurityProfile(kind)
    return replace(config, security=replace(config.security, seccomp=profile))


@pytest.mark.parametrize(
    ("rule", "edits", "said"),
    [
        ("reject_oci_hooks", HOOK, "OCI hooks were added by NRI plugin 10-a"),
        ("reject_namespaces", NAMESPACE, "namespace ipc was changed by NRI plugin 10-a"),
        ("reject_namespaces", NO_NAMESPACE, "namespace ipc was changed by NRI plugin 10-a"),
        ("reject_sysctls", SYSCTL, "sysctl kernel.x was changed by NRI plugin 10-a"),
    ],
)
def test_a_rule_rejects_what_it_is_about_and_nothing_else(
    rule: str, edits: ContainerEdits, said: str
) -> None:
    every = {
        name: True for name in ("reject_oci_hooks", "reject_namespaces", "reject_sysctls") if name != rule
    }
    assert verdict(ValidatorSettings(enable=True, **{rule: True}), edits) == [said]  # type: ignore[arg-type]
    assert verdict(ValidatorSettings(enable=True, **every), edits) == []  # type: ignore[arg-type]
    assert verdict(ValidatorSettings(enable=False, **{rule: True}), edits) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ("reject_unconfined_seccomp", (None, ProfileType.UNCONFINED)),
        ("reject_runtime_default_seccomp", (ProfileType.RUNTIME_DEFAULT,)),
        ("reject_custom_seccomp", (ProfileType.LOCALHOST,)),
    ],
)
def test_seccomp_is_judged_by_what_the_container_asked_for(
    rule: str, kinds: tuple[ProfileType | None, ...]
) -> None:
    rules = ValidatorSettings(enable=True, **{rule: True})  # type: ignore[arg-type] # one of the switches
    for kind in (None, *ProfileType):
        config = with_seccomp(kind)
        assert bool(verdict(rules, SECCOMP, config=config)) == (kind in kinds)
        assert not verdict(rules, SYSCTL, config=config)


def test_required_plugins_are_known_with_and_without_their_index() -> None:
    rules = ValidatorSettings(enable=True, required_plugins=("a", "20-b", "c"))
    assert verdict(rules, asked=("10-a", "20-b")) == ["required plugin c is not there"]
    assert verdict(rules, asked=("10-a", "21-b", "30-c")) == ["required plugin 20-b is not there"]


def test_an_annotation_tolerates_that_required_plugins_are_missing() -> None:
    rules = ValidatorSettings(enable=True, required_plugins=("x",), tolerate_missing_annotation="tolerate")
    assert verdict(rules, annotations={"tolerate": "true"}) == []
    assert verdict(rules, annotations={"tolerate/container.nginx": "T"}) == []
    assert verdict(rules, annotations={"tolerate": "true", "tolerate/pod": "0"}) != []
    assert verdict(rules, annotations={"tolerate": "yes"}) == [
        "annotation tolerate is 'yes', and not true or false"
    ]
    without = replace(rules, tolerate_missing_annotation="")
    assert verdict(without, annotations={"tolerate": "true"}) != []


def test_a_pod_may_require_more_plugins() -> None:
    rules = ValidatorSettings(enable=True)
    assert verdict(rules, annotations={REQUIRED: "[a, 'x']"}) == ["required plugin x is not there"]
    assert verdict(rules, annotations={f"{REQUIRED}/container.nginx": "- a\n- y"}) == [
        "required plugin y is not there"
    ]
    assert verdict(rules, annotations={f"{REQUIRED}/container.other": "[x]"}) == []
    assert verdict(rules, annotations={REQUIRED: "{a: b}"}) == [
        f"annotation {REQUIRED} is '{{a: b}}', and not a list of plugins"
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("[]", []),
        ("[a]", ["a"]),
        ('["10-a", b,]', ["10-a", "b"]),
        ("- a\n-  'b.c'\n", ["a", "b.c"]),
        ("---\n- a", ["a"]),
        ("a", None),
        ("[[a]]", None),
        ("[a: b]", None),
        ("- a\nb", None),
        (f"[{','.join('a' for _ in range(300))}]", None),
    ],
)
def test_lists_of_plugins_in_annotations(text: str, names: list[str] | None) -> None:
    assert listed(text) == names


def test_the_annotation_of_the_container_counts_before_the_pods() -> None:
    annotations = {"k": "1", "k/pod": "2", "k/container.a": "3"}
    assert [effective(annotations, "k", name) for name in ("a", "b")] == ["3", "2"]
    assert effective({"k": "1"}, "k", "a") == "1"
    assert effective({}, "k", "a") is None


def test_owners_tell_who_has_set_what() -> None:
    owners = Owners()
    owners.take("10-a", ContainerEdits("", env=(("A", "1"), ("B", "1")), oom_score_adj=1))
    owners.take("20-b", ContainerEdits("", removed=Removals(env=("A",))))
    assert owners.owner(Field.OomScoreAdj) == "10-a"
    assert owners.owner(Field.Env, "B") == "10-a"
    assert owners.owner(Field.Env, "A") == ""
    assert owners.of(Field.Env) == {"A": "20-b", "B": "10-a"}
