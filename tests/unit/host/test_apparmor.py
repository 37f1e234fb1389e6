from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crib.host import apparmor
from crib.host.processes import ProgramFailed, ToolMissing


def test_enabled_is_what_the_module_says(tmp_path: Path) -> None:
    switch = tmp_path / "enabled"
    assert not apparmor.is_enabled(str(switch))
    for text, on in (("Y\n", True), ("N\n", False), ("", False)):
        switch.write_text(text)
        assert apparmor.is_enabled(str(switch)) is on


def test_loaded_profiles_have_names_with_anything_in_them(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    profiles.write_text(
        "crib-default (enforce)\n/usr/bin/man (complain)\nman//filter (enforce)\nodd (name) (kill)\nbroken\n"
    )
    expected = {"crib-default", "/usr/bin/man", "man//filter", "odd (name)"}
    assert apparmor.loaded_profiles(str(profiles)) == expected
    with pytest.raises(FileNotFoundError):
        apparmor.loaded_profiles(str(tmp_path / "none"))


def test_profiles_are_read_anew_when_their_revision_is_another_one(tmp_path: Path) -> None:
    profiles, revision = tmp_path / "profiles", tmp_path / "revision"

    def names() -> frozenset[str]:
        return apparmor.loaded_profiles(str(profiles), str(revision))

    profiles.write_text("one (enforce)\n")
    revision.write_text("7\n")
    assert names() == {"one"}
    profiles.write_text("two (enforce)\n")
    assert names() == {"one"}, "the same revision: not read"
    revision.write_text("8\n")
    assert names() == {"two"}
    profiles.write_text("three (enforce)\n")
    revision.unlink()
    assert names() == {"three"}, "a kernel that does not tell"
    profiles.write_text("four (enforce)\n")
    assert names() == {"four"}


def test_own_profile_is_told_without_its_mode(tmp_path: Path) -> None:
    current = tmp_path / "current"
    assert apparmor.own_profile(str(current)) == "unconfined"
    for text, name in (("cribd (enforce)\n", "cribd"), ("unconfined\n\0", "unconfined"), ("", "unconfined")):
        current.write_text(text)
        assert apparmor.own_profile(str(current)) == name


def test_default_profile_uses_what_the_distribution_has(tmp_path: Path) -> None:
    bare = apparmor.default_profile("crib-default", macros=str(tmp_path))
    assert bare.startswith("@{PROC}=/proc/\n")
    assert "#include" not in bare
    assert "abi/" not in bare
    for name in ("abi/3.0", "tunables/global", "abstractions/base"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    full = apparmor.default_profile("crib-default", macros=str(tmp_path))
    assert full.startswith("abi <abi/3.0>,\n#include <tunables/global>\n")
    assert "  #include <abstractions/base>\n" in full


def test_default_profile_lets_the_daemon_send_signals(tmp_path: Path) -> None:
    confined = apparmor.default_profile("p", keeper="/usr/bin/cribd", macros=str(tmp_path))
    assert 'signal (receive) peer="/usr/bin/cribd",' in confined
    free = apparmor.default_profile("p", macros=str(tmp_path))
    assert free.count("peer=unconfined") == 1
    assert '"unconfined"' not in free


@pytest.mark.parametrize(
    "rule",
    [
        "deny mount,",
        "deny network alg,",
        "deny @{PROC}/* w,",
        "deny @{PROC}/sys/kernel/sh[^m]** w,",
        "deny @{PROC}/{kcore,kmem,mem,sysrq-trigger} rwklx,",
        "deny /sys/fs/c[^g]*/** wklx,",
        "deny /sys/firmware/** rwklx,",
        "deny /sys/devices/virtual/powercap/** rwklx,",
        "deny /sys/kernel/security/** rwklx,",
        "ptrace (trace,read,tracedby,readby) peer=p,",
    ],
)
def test_default_profile_denies_what_leads_to_the_host(tmp_path: Path, rule: str) -> None:
    assert f"  {rule}\n" in apparmor.default_profile("p", macros=str(tmp_path))


@pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="needs apparmor_parser")
def test_default_profile_is_understood_by_the_parser(tmp_path: Path) -> None:
    import subprocess

    text = apparmor.default_profile("crib-default", keeper="/usr/bin/cribd")
    argv = ["apparmor_parser", "-QK", "--config-file=/dev/null", "-S"]
    done = subprocess.run(argv, input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_profile_goes_to_the_parser_and_its_words_come_back(tmp_path: Path) -> None:
    parser = tmp_path / "parser"
    parser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\ncat > {tmp_path}/text\n')
    parser.chmod(0o755)
    await apparmor.load_profile("profile x {}\n", str(parser))
    assert (tmp_path / "args").read_text() == "-Kr\n"
    assert (tmp_path / "text").read_text() == "profile x {}\n"
    parser.write_text("#!/bin/sh\ncat > /dev/null\necho no good >&2\nexit 1\n")
    with pytest.raises(ProgramFailed, match="no good"):
        await apparmor.load_profile("profile x {}\n", str(parser))
    with pytest.raises(ToolMissing):
        await apparmor.load_profile("profile x {}\n", str(tmp_path / "none"))
