"""Which AppArmor profile processes run under, with AppArmor enforcing (`script/guest trixie`).

What `crib-default` allows and denies stands in test_apparmor_rules.py.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crib.backends.bundle import labels
from crib.host import apparmor
from crib.model.container import ContainerConfig, ContainerRecord, ContainerSecurity
from crib.model.errors import Broken, InvalidRequest
from crib.model.sandbox import (
    NamespaceMode,
    NamespaceOptions,
    ProfileType,
    SandboxRecord,
    SecurityProfile,
)
from tests.system.labs.oci_setup import OciLab, oci_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.skipif(not apparmor.is_enabled(), reason="the kernel has no AppArmor, or it is off"),
]

DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
UNCONFINED = SecurityProfile(ProfileType.UNCONFINED)
HELD = "crib-default (enforce)"
FIELD = r"linux\.security_context\.apparmor"


@pytest.fixture(params=["crun", "runc"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[OciLab]:
    async with oci_lab(request.param) as made:
        yield made


def config(
    profile: SecurityProfile | None, *command: str, pid: NamespaceMode = NamespaceMode.CONTAINER, **more: bool
) -> ContainerConfig:
    security = ContainerSecurity(namespaces=NamespaceOptions(pid=pid), apparmor=profile, **more)  # type: ignore[arg-type]
    return ContainerConfig(
        name="main", image="busybox", command=command or ("sleep", "1000"), security=security
    )


def secured(record: SandboxRecord, **changes: object) -> SandboxRecord:
    security = replace(record.config.security, **changes)  # type: ignore[arg-type]
    return replace(record, config=replace(record.config, security=security))


def localhost(name: str) -> SecurityProfile:
    return SecurityProfile(ProfileType.LOCALHOST, name)


@contextlib.contextmanager
def loaded(rules: str = "", *, flags: str = "") -> Iterator[str]:
    """A profile of the test's own that allows everything but what `rules` deny; its name."""
    name = f"crib-test-{secrets.token_hex(3)}"
    text = (
        f"profile {name} flags=(attach_disconnected,mediate_deleted{flags}) {{ "
        f"file, network, capability, signal, ptrace, unix, {rules} }}\n"
    )
    parse("--replace", text)
    try:
        yield name
    finally:
        if name in apparmor.loaded_profiles():
            parse("--remove", text)


def parse(verb: str, text: str) -> None:
    argv = ["apparmor_parser", "--skip-cache", verb]
    subprocess.run(argv, input=text, text=True, capture_output=True, check=True)


def unload_default() -> None:
    if "crib-default" in apparmor.loaded_profiles():
        parse("--remove", "profile crib-default { }\n")


def profile_of(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n")


def first(record: ContainerRecord | SandboxRecord) -> str:
    """The profile of a container's first process, or of a pod's infra process."""
    process = record.infra if isinstance(record, SandboxRecord) else record.process
    assert process is not None
    return profile_of(process.pid)


async def command(lab: OciLab, record: ContainerRecord) -> str:
    """The profile of a command in a container."""
    result = await lab.execute(record, "cat", "/proc/self/attr/current")
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


def test_the_kernel_tells_when_a_profile_is_loaded_replaced_or_removed() -> None:
    def revision() -> int:
        return int(apparmor._revision(apparmor.REVISION))  # to read on would wait for the next change

    before, names = revision(), apparmor.loaded_profiles()
    with loaded() as named:
        made = revision()
        assert apparmor.loaded_profiles() == names | {named}
        parse("--replace", f"profile {named} {{ file, }}\n")
        replaced = revision()
    assert before < made < replaced < revision()
    assert apparmor.loaded_profiles() == names


async def test_profiles_are_those_that_were_asked_for_by_first_processes_and_commands(lab: OciLab) -> None:
    with loaded() as named, loaded(flags=",complain") as complaining:
        async with lab.pod(lab.sandbox(pid=NamespaceMode.CONTAINER)) as sandbox:
            for wanted, expected in (
                (None, HELD),
                (DEFAULT, HELD),
                (UNCONFINED, "unconfined"),
                (localhost(named), f"{named} (enforce)"),
                (localhost(f"localhost/{named}"), f"{named} (enforce)"),
                (localhost(complaining), f"{complaining} (complain)"),
            ):
                async with lab.running(sandbox, config(wanted)) as record:
                    assert first(record) == await command(lab, record) == expected


async def test_a_privileged_container_is_unconfined_whatever_it_asks_for(lab: OciLab) -> None:
    sandbox = secured(lab.sandbox(), privileged=True)
    async with lab.pod(sandbox), lab.running(sandbox, config(DEFAULT, privileged=True)) as record:
        assert first(record) == await command(lab, record) == "unconfined"


async def test_a_profile_that_is_not_loaded_is_refused_by_its_field(lab: OciLab) -> None:
    async with lab.pod(lab.sandbox()) as sandbox:
        with pytest.raises(InvalidRequest, match=rf"{FIELD}.*'crib-none' is not loaded in the kernel"):
            async with lab.running(sandbox, config(localhost("crib-none"))):
                pass


async def test_a_pods_profile_holds_for_the_process_that_keeps_its_pids(lab: OciLab) -> None:
    with loaded() as named:
        for wanted, expected in ((None, HELD), (localhost(named), f"{named} (enforce)")):
            asked = secured(lab.sandbox(pid=NamespaceMode.POD), apparmor=wanted)
            async with lab.pod(asked) as sandbox:
                assert first(sandbox) == expected
                async with lab.running(sandbox, config(None, pid=NamespaceMode.POD)) as container:
                    assert first(container) == await command(lab, container) == HELD


async def test_a_profile_replaced_under_a_container_holds_at_once(lab: OciLab) -> None:
    write = ("sh", "-c", "echo x > /tmp/file")
    with loaded() as named:
        async with (
            lab.pod(lab.sandbox()) as sandbox,
            lab.running(sandbox, config(localhost(named))) as record,
        ):
            assert (await lab.execute(record, *write)).exit_code == 0
            text = f"profile {named} flags=(attach_disconnected) {{ file, signal, deny /tmp/** w, }}\n"
            parse("--replace", text)
            assert first(record) == f"{named} (enforce)"
            refused = await lab.execute(record, *write)
            assert refused.exit_code != 0
            assert b"Permission denied" in refused.stderr


async def test_commands_are_confined_again_after_somebody_removed_the_default_profile(
    lab: OciLab, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab.pod(lab.sandbox()) as sandbox, lab.running(sandbox, config(None)) as record:
        unload_default()
        assert first(record) == "unconfined"  # the kernel frees who ran under it
        assert await command(lab, record) == HELD
        assert "containers that ran under it are unconfined until they start again" in caplog.text
        unload_default()
        async with lab.running(sandbox, config(DEFAULT)) as other:
            assert first(other) == HELD


async def test_a_command_whose_profile_was_removed_is_refused_by_its_name(lab: OciLab) -> None:
    with loaded() as named:
        async with (
            lab.pod(lab.sandbox()) as sandbox,
            lab.running(sandbox, config(localhost(named))) as record,
        ):
            parse("--remove", f"profile {named} {{ }}\n")
            with pytest.raises(Broken, match=rf"AppArmor profile '?{named}'? is no(t| longer) loaded"):
                await command(lab, record)


async def test_without_the_parser_who_asks_for_the_default_is_refused_and_who_does_not_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unload_default()
    for name in ("crun", "conmon", "catatonit"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(labels, "_warned", set())
    async with oci_lab("crun") as lab, lab.pod(lab.sandbox()) as sandbox:
        with pytest.raises(InvalidRequest, match=rf"{FIELD}.*'crib-default' is not loaded in the kernel"):
            async with lab.running(sandbox, config(DEFAULT)):
                pass
        async with lab.running(sandbox, config(None)) as record:
            assert "crib-default" not in first(record)
            assert "crib-default" not in await command(lab, record)
    (told,) = (line for line in caplog.messages if "apparmor_parser" in line)
    assert "crib-default cannot be loaded" in told
