"""The keys of a handler of the kind `vm`."""

from __future__ import annotations

import re
import tomllib

import pytest

from crib.config import ConfigError, parse
from crib.config.defaults import default_config
from crib.config.schema import schema
from crib.model.keys import followed
from crib.model.vm_settings import MIB, VmSettings

HEAD = 'default_handler = "vm"\n[handlers.vm]\n'


def test_a_handler_of_machines_needs_no_key_but_its_kind() -> None:
    handler = parse(HEAD + 'kind = "vm"\n').handlers["vm"]
    assert (handler.kind, handler.vm) == ("vm", VmSettings())
    assert handler.vm.acceleration == "auto"


def test_its_table_says_what_the_machines_are() -> None:
    settings = parse(
        HEAD + 'kind = "vm"\n[handlers.vm.vm]\nguest = "/srv/guest"\nqemu = "qemu-system-x86_64"\n'
        'virtiofsd = "/usr/lib/qemu/virtiofsd"\nmachine = "q35"\nacceleration = "tcg"\n'
        "memory = 1073741824\nown_memory = 134217728\ncpus = 2\ndisk = 1073741824\nboot_timeout = 20\n"
    )
    assert settings.handlers["vm"].vm == VmSettings(
        "/srv/guest",
        "qemu-system-x86_64",
        "/usr/lib/qemu/virtiofsd",
        "q35",
        "tcg",
        memory=1024 * MIB,
        own_memory=128 * MIB,
        cpus=2,
        disk=1024 * MIB,
        boot_timeout=20,
    )


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('kind = "vm"\npath = "/x"', 'handlers.vm.path is set, but not used with handlers.vm.kind = "vm"'),
        ('kind = "vm"\nargs = ["x"]', "handlers.vm.args is set, but not used with"),
        ('kind = "vm"\nruntime = "io.containerd.runc.v2"', "handlers.vm.runtime is set, but used only with"),
        ('kind = "vm"\noptions = { x = 1 }', "handlers.vm.options is set, but used only with"),
        ('kind = "vm"\nsandbox_container = "never"', 'handlers.vm.sandbox_container is "never", but with'),
        ('kind = "vm"\nsandbox_service = "never"', 'handlers.vm.sandbox_service is "never", but with'),
        ('kind = "vm"\n[handlers.vm.vm]\nguest = "x"', "handlers.vm.vm.guest is 'x', and must be"),
        ('kind = "vm"\n[handlers.vm.vm]\nqemu = "bin/qemu"', "handlers.vm.vm.qemu must be an absolute path"),
        ('kind = "vm"\n[handlers.vm.vm]\nmachine = "pc"', "handlers.vm.vm.machine is 'pc', and must be"),
        ('kind = "vm"\n[handlers.vm.vm]\nacceleration = "xen"', "handlers.vm.vm.acceleration is 'xen', and"),
        ('kind = "vm"\n[handlers.vm.vm]\nmemory = 1024', "handlers.vm.vm.memory is 1024, and must be"),
        ('kind = "vm"\n[handlers.vm.vm]\ndisk = 0', "handlers.vm.vm.disk is 0, and must be"),
        ('kind = "vm"\n[handlers.vm.vm]\ncpus = 0', "handlers.vm.vm.cpus is 0, and must be"),
        ('kind = "vm"\n[handlers.vm.vm]\nkernel = "/x"', "unknown key handlers.vm.vm.kernel"),
        ("[handlers.vm.vm]\ncpus = 2", 'handlers.vm.vm is set, but used only with handlers.vm.kind = "vm"'),
        (
            'kind = "shim"\nruntime = "io.containerd.kata.v2"\n[handlers.vm.vm]\ncpus = 2',
            'handlers.vm.vm is set, but used only with handlers.vm.kind = "vm"',
        ),
    ],
)
def test_what_is_wrong_with_machines_is_told(keys: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        parse(HEAD + keys + "\n")


def test_sizes_follow_a_reload_and_what_a_machine_is_made_of_does_not() -> None:
    before = parse(HEAD + 'kind = "vm"\n')
    after = parse(HEAD + 'kind = "vm"\n[handlers.vm.vm]\ncpus = 3\nmachine = "q35"\n')
    assert followed(before, after).handlers["vm"].vm == VmSettings(cpus=3)


def test_the_default_configuration_and_the_schema_have_every_key_of_machines() -> None:
    text = default_config().split("#[handlers.crun.vm]\n")[1].split("#[")[0]
    plain = "\n".join(line.removeprefix("#") for line in text.splitlines() if not line.startswith("# "))
    assert VmSettings(**tomllib.loads(plain)) == VmSettings()
    handlers = schema()["properties"]["handlers"]["additionalProperties"]["properties"]
    assert set(handlers["vm"]["properties"]) == set(VmSettings.__slots__)
    assert handlers["vm"]["properties"]["acceleration"]["enum"] == ["auto", "kvm", "tcg"]
