"""cribd whose pods are virtual machines, under emulation: nothing opens a /dev/kvm, which may hang."""

from __future__ import annotations

from tests.system.labs.vm_guest import guest_image

VM_SECONDS = 300.0
"""Seconds for a pod on a busy machine; an idle one takes 3 s."""


def vm_table(**keys: object) -> str:
    """A handler `vm`, as lines of the configuration. Skips the test where no guest can be made."""
    made = {"guest": f'"{guest_image()}"', "acceleration": '"tcg"', "boot_timeout": VM_SECONDS, **keys}
    return '[handlers.vm]\nkind = "vm"\n[handlers.vm.vm]\n' + "".join(
        f"{name} = {value}\n" for name, value in made.items()
    )


def default_vm(**keys: object) -> str:
    """Lines of the configuration's top that make machines of all pods."""
    return f'default_handler = "vm"\n{vm_table(**keys)}'
