"""The start of a VM before there is an event loop: as early as a shim's `start`.

What a VM is made of is in the options and in the pod's bundle, both of which are there by then. So the guest
boots while the shim imports what serves it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from crib.host.files import remove_tree
from crib.vm.shim.machine import StartedVm, end_now, start_machine
from crib.vm.shim.network import JoinedNetwork, join_network, leave_network
from crib.vm.shim.options import (
    MOST_BYTES,
    OptionProblem,
    VmOptions,
    VmPlan,
    read_options,
    read_pod,
    with_virtiofsd,
)
from crib.vm.shim.spec import CONTAINERS
from crib.vm.shim.stages import Stages
from crib.wire.ttrpc import Malformed, fields

OPTIONS = "runtimeoptions.v1.Options"
_CONFIG_PATH = 2
_CONFIG_BODY = 3
_EXTENSIONS = 8
"""Of BootstrapParams: each has an Any as its field 1."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a VM is made from."""

    options: VmOptions
    plan: VmPlan


@dataclass(frozen=True, slots=True)
class Launched:
    """A VM that boots, and the network that it has; the taps are qemu's by now."""

    recipe: Recipe
    network: JoinedNetwork
    started: StartedVm


def share_path(bundle: str) -> str:
    """Of the tree that a pod's guest sees."""
    return f"{bundle}/share"


def read_recipe(given: bytes, bundle: str) -> Recipe:
    """Of what `start` has read, or an Any with options. Blocks. OptionProblem, OSError."""
    options = with_virtiofsd(read_options(_document(given)))
    try:
        with open(f"{bundle}/config.json", "rb") as file:
            return Recipe(options, read_pod(file.read(MOST_BYTES)))
    except FileNotFoundError:
        return Recipe(options, VmPlan())


def launch(recipe: Recipe, bundle: str, stages: Stages) -> Launched:
    """Make what the VM is given, and start it; from the main thread. Blocks. OSError, with nothing left."""
    path = share_path(bundle)
    remove_tree(path)
    os.makedirs(f"{path}/{CONTAINERS}", mode=0o755)
    network = join_network(recipe.plan.network) if recipe.plan.network else JoinedNetwork()
    try:
        started = start_machine(recipe.options, recipe.plan, path, network.taps, stages)
    except BaseException:
        network.close()
        undo(recipe.plan, bundle)
        raise
    network.close()
    return Launched(recipe, network, started)


def end_launched(launched: Launched, bundle: str) -> None:
    """End a VM that nobody watches yet, with all that it had. Blocks."""
    started = launched.started
    for program in (started.qemu, started.virtiofsd):
        end_now(program)
    for end in (started.agent, started.words, started.control):
        end.close()
    undo(launched.recipe.plan, bundle)


def undo(plan: VmPlan, bundle: str) -> None:
    """Take away what the VM was given; its programs have ended. Safe to repeat. Blocks. OSError."""
    remove_tree(share_path(bundle))
    if plan.network and os.path.exists(plan.network):
        leave_network(plan.network)


class EarlyVm:
    """What a shim's `start` has begun before anybody asked for it, in its pod's bundle."""

    def __init__(self, bundle: str, stages: Stages) -> None:
        self.bundle = bundle
        self.stages = stages
        self._launched: Launched | None = None

    def begin(self, recipe: Recipe) -> None:
        """OSError."""
        self._launched = launch(recipe, self.bundle, self.stages)

    def take(self, recipe: Recipe) -> Launched | None:
        """The VM, if it was begun from this recipe; one of another is ended."""
        if self._launched is not None and self._launched.recipe != recipe:
            self.drop()
        found, self._launched = self._launched, None
        return found

    def drop(self) -> None:
        """End it, if nobody has taken it."""
        if self._launched is not None:
            end_launched(self._launched, self.bundle)
            self._launched = None


def _document(given: bytes) -> bytes:
    """The options in TOML."""
    try:
        found = dict(fields(given))
        if not _is_options(found.get(1)):  # all parameters, as of containerd 2.3
            within = found.get(_EXTENSIONS, b"")
            inner = dict(fields(within)).get(1, b"") if isinstance(within, bytes) else b""
            found = dict(fields(inner)) if isinstance(inner, bytes) else {}
        value = found.get(2, b"")
        if not _is_options(found.get(1)) or not isinstance(value, bytes):
            raise OptionProblem(f"options of type {OPTIONS} must be there: they name the guest's image")
        options = dict(fields(value))
    except Malformed as error:
        raise OptionProblem(f"the options are no {OPTIONS}: {error}") from error
    path, body = options.get(_CONFIG_PATH, b""), options.get(_CONFIG_BODY, b"")
    if path and isinstance(path, bytes):
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)
    return body if isinstance(body, bytes) else b""


def _is_options(type_url: object) -> bool:
    return isinstance(type_url, bytes) and type_url.decode("utf-8", "replace").rpartition("/")[2] == OPTIONS
