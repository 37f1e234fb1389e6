"""Extensions by entry points: what is imported, when, and how a broken one is told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from crib.backends import handlers
from crib.backends.extensions import HOOKS, VERIFIERS, load, load_extensions
from crib.backends.network import networks
from crib.model.errors import Broken
from crib.model.extension import PodView, Refused
from crib.model.ids import Digest
from crib.model.image import SuspectImage, parse_reference
from crib.model.image_settings import ImageSettings, StoreSettings
from crib.model.settings import HandlerSettings, HookSettings, NetworkSettings, Settings
from crib.ports.extensions import HookFailed

POD = PodView("id", "default", "web", "uid", 0, "crun")
SUSPECT = SuspectImage(parse_reference("docker.io/library/busybox:1"), Digest(f"sha256:{'0' * 64}"), ())


MESH = """
class Thing:
    built_on = 'bridge'
    def open(settings, host):
        return 'a mesh'
"""


class Site:
    """A directory on sys.path, to be filled with distributions."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, group: str, code: str, declaration: str = "CRIB_EXTENSION = 1") -> None:
        (self.path / f"{name}.py").write_text(f"{declaration}\n{code}\n")
        info = self.path / f"{name}_dist-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:Thing\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]


def hook_of(name: str, **fields: object) -> Settings:
    return Settings(hooks=(HookSettings(name, **fields),))  # type: ignore[arg-type]  # fields of this class


def test_nothing_is_imported_that_the_settings_do_not_name(site: Site) -> None:
    site.add("loud", HOOKS, "raise SystemExit('imported')")
    site.add("quiet", HOOKS, "class Thing:\n    def before_run_pod(self, pod): ...")
    (hook,) = load_extensions(hook_of("quiet")).hooks
    assert (hook.name, hook.moments) == ("quiet", {"before_run_pod"})
    assert "loud" not in sys.modules
    assert load_extensions(Settings()).hooks == ()


def test_a_name_that_nobody_has_is_told_with_those_that_there_are(site: Site) -> None:
    site.add("teams", HOOKS, "class Thing: ...")
    message = r"hooks\[0\].name is 'team', and no distribution here has that in crib.lifecycle_hooks"
    with pytest.raises(Broken, match=message + r" \(there is: 'teams'\)"):
        load_extensions(hook_of("team"))


@pytest.mark.parametrize(
    ("declaration", "code", "message"),
    [
        (
            "CRIB_EXTENSION = 1",
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("CRIB_EXTENSION = 1", "", "AttributeError: module 'odd' has no attribute 'Thing'"),
        (
            "",
            "class Thing: ...",
            "odd of odd-dist 2.0 does not say in CRIB_EXTENSION",
        ),
        ("CRIB_EXTENSION = 2", "class Thing: ...", "odd of odd-dist 2.0 says 2 in CRIB_EXTENSION"),
    ],
)
def test_a_broken_one_is_told_with_its_distribution(
    site: Site, declaration: str, code: str, message: str
) -> None:
    site.add("odd", VERIFIERS, code, declaration)
    with pytest.raises(Broken) as caught:
        load(VERIFIERS, "odd", "images.verifier_extensions")
    assert message in str(caught.value)
    assert str(caught.value).startswith("images.verifier_extensions: odd")
    assert "odd-dist 2.0" in str(caught.value)


def test_a_hook_with_a_function_for_no_verb_is_refused(site: Site) -> None:
    site.add("odd", HOOKS, "class Thing:\n    def before_start(self, pod): ...")
    with pytest.raises(Broken, match=r"hooks\[0\].name: odd has before_start; verbs are run_pod, update_pod"):
        load_extensions(hook_of("odd"))


async def test_a_hook_runs_in_a_thread_and_its_errors_are_told_apart(site: Site) -> None:
    code = """
import threading
from crib.extension import Refused
seen = []
class Thing:
    def before_run_pod(self, pod):
        seen.append((pod.name, threading.current_thread()))
    def before_stop_pod(self, pod):
        raise Refused("not today")
    def after_run_pod(self, pod):
        raise ValueError("broken")
"""
    site.add("busy", HOOKS, code)
    (hook,) = load_extensions(hook_of("busy")).hooks
    await hook.call("before_run_pod", POD)
    ((name, thread),) = sys.modules["busy"].seen
    assert name == "web"
    assert thread is not threading.main_thread()
    with pytest.raises(Refused, match="not today"):
        await hook.call("before_stop_pod", POD)
    with pytest.raises(HookFailed, match="ValueError: broken"):
        await hook.call("after_run_pod", POD)


async def test_a_hook_that_hangs_fails_at_its_limit(site: Site) -> None:
    code = """
import threading
gate = threading.Event()
class Thing:
    def before_run_pod(self, pod):
        gate.wait()
"""
    site.add("hung", HOOKS, code)
    (hook,) = load_extensions(hook_of("hung", timeout=0.1)).hooks
    try:
        with pytest.raises(HookFailed, match=r"it did not return within 0\.1 s"):
            await hook.call("before_run_pod", POD)
    finally:
        sys.modules["hung"].gate.set()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def Thing(image): return ''", ""),
        ("def Thing(image): return image.reference.tag + ' is old'", "1 is old"),
        ("def Thing(image): raise OSError('no list')", "verifier judge failed: OSError: no list"),
    ],
)
async def test_a_verifier_that_fails_refuses(site: Site, code: str, problem: str) -> None:
    site.add("judge", VERIFIERS, code)
    store = StoreSettings(verifier_extensions=("judge",))
    (verifier,) = load_extensions(Settings(images=ImageSettings(store=store))).verifiers
    assert await verifier.problem(SUSPECT) == problem


def test_a_kind_of_handler_and_a_network_become_rows_of_their_tables(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "KINDS", dict(handlers.KINDS))
    monkeypatch.setattr(networks, "KINDS", dict(networks.KINDS))
    site.add("hyper", "crib.handlers", "class Thing: ...")
    site.add("mesh", "crib.networks", MESH)
    handlers.check_kinds(Settings(handlers={"crun": HandlerSettings(kind="hyper")}))
    networks.check_mode(NetworkSettings(mode="mesh"))
    assert handlers.KINDS["hyper"] is sys.modules["hyper"].Thing
    assert networks.KINDS["mesh"].owned is networks.KINDS["bridge"].owned
    monkeypatch.setitem(networks.KINDS, "bridge", SimpleNamespace(held=lambda host: 1))
    monkeypatch.setitem(networks.KINDS, "cni", SimpleNamespace(held=lambda host: 0))
    host: networks.Host = SimpleNamespace()  # type: ignore[assignment]  # nobody looks at it
    assert str(networks.open_network(NetworkSettings(mode="mesh"), host)) == "a mesh"
    with pytest.raises(Broken, match=r"handlers.crun.kind is 'kata', .* \(there is: .*'vm'\)"):
        handlers.check_kinds(Settings(handlers={"crun": HandlerSettings(kind="kata")}))
