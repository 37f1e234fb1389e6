"""The keys of a handler of the kind `shim`."""

from __future__ import annotations

import re

import pytest

from crib.config import ConfigError, parse
from crib.model.shim_settings import is_runc, program_name

HEAD = 'default_handler = "one"\n[handlers.one]\n'


def test_a_handler_by_a_shim_has_a_runtime_and_options() -> None:
    settings = parse(
        HEAD + 'kind = "shim"\nruntime = "io.containerd.runc.v2"\n'
        'options = { BinaryName = "crun", SystemdCgroup = true, IoUid = 7 }\n'
    )
    shim = settings.handlers["one"].shim
    assert shim.runtime == "io.containerd.runc.v2"
    assert shim.options == {"BinaryName": "crun", "SystemdCgroup": True, "IoUid": 7}
    assert shim.sandbox_service == "detect"


def test_options_of_another_runtime_are_its_own() -> None:
    settings = parse(
        HEAD + 'kind = "shim"\nruntime = "/opt/kata/bin/containerd-shim-kata-v2"\n'
        'options = { ConfigPath = "/etc/kata.toml", ratio = 0.5 }\n'
    )
    assert settings.handlers["one"].shim.options == {"ConfigPath": "/etc/kata.toml", "ratio": 0.5}


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('kind = "shim"', 'handlers.one.runtime is required with handlers.one.kind = "shim"'),
        ('kind = "shim"\nruntime = "runc"', "'runc' is neither a path nor a name such as"),
        ('kind = "shim"\nruntime = "a/b.c.d"', "'a/b.c.d' is neither a path nor a name"),
        ('kind = "shim"\nruntime = "io.containerd.runc.v2"\npath = "/x"', "handlers.one.path is set, but"),
        ('kind = "shim"\nruntime = "io.containerd.runc.v2"\nargs = ["x"]', "handlers.one.args is set, but"),
        (
            'kind = "shim"\nruntime = "io.containerd.runc.v2"\noptions = { Binary = "x" }',
            "handlers.one.options.Binary is not known to io.containerd.runc.v2",
        ),
        (
            'kind = "shim"\nruntime = "io.containerd.runc.v2"\noptions = { SystemdCgroup = 1 }',
            "handlers.one.options.SystemdCgroup must be true or false",
        ),
        (
            'kind = "shim"\nruntime = "io.containerd.runc.v2"\noptions = { IoUid = -1 }',
            "handlers.one.options.IoUid must be 0 to",
        ),
        (
            'kind = "shim"\nruntime = "io.containerd.kata.v2"\noptions = { ConfigPath = 1 }',
            "handlers.one.options.ConfigPath must be a string",
        ),
        (
            'kind = "shim"\nruntime = "io.containerd.kata.v2"\noptions = { x = [1] }',
            "handlers.one.options.x must be a string, an integer, a number, true or false",
        ),
        ('kind = "shim"\nruntime = "io.containerd.runc.v2"\nsandbox_service = "x"', "must be one of"),
        ('runtime = "io.containerd.runc.v2"', "handlers.one.runtime is set, but used only with"),
        ("options = { x = 1 }", "handlers.one.options is set, but used only with"),
    ],
)
def test_what_is_wrong_with_a_shim_is_told(keys: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        parse(HEAD + keys + "\n")


def test_a_runtimes_name_says_which_program_its_shim_is() -> None:
    assert program_name("io.containerd.runc.v2") == "containerd-shim-runc-v2"
    assert program_name("io.containerd.kata-qemu.v2") == "containerd-shim-kata-qemu-v2"
    assert program_name("/opt/bin/mine") == "/opt/bin/mine"


def test_containerds_own_shim_is_known_by_name_and_by_path() -> None:
    assert is_runc("io.containerd.runc.v2")
    assert is_runc("/opt/bin/containerd-shim-runc-v2")
    assert not is_runc("io.containerd.kata.v2")
    assert not is_runc("/opt/bin/mine")
