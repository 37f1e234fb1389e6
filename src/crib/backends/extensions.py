"""Extensions of other projects, by entry points; only what the settings name is imported.

    [project.entry-points."crib.networks"]
    announced = "announced:Announced"

The module of an entry point says in `CRIB_EXTENSION` for which version it was written. What is wrong is told
before the daemon opens anything, with the distribution that it is in.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crib.host.threads import FOREIGN, Job, Overdue
from crib.model.errors import Broken
from crib.model.extension import VERBS, VERSION, Refused, View
from crib.model.image import SuspectImage
from crib.model.settings import HookSettings, Settings
from crib.ports.extensions import HookFailed, ImageVerifier, LifecycleHook

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HANDLERS, NETWORKS, STORES = "crib.handlers", "crib.networks", "crib.layer_stores"
VERIFIERS, HOOKS = "crib.image_verifiers", "crib.lifecycle_hooks"
_DECLARATION = "CRIB_EXTENSION"


def load(group: str, name: str, setting: str, known: Collection[str] = ()) -> Any:
    """What an entry point names. Broken, naming the setting; `known` are names that crib itself has."""
    from importlib.metadata import entry_points  # most nodes have no extension, and it takes some MiB

    found = [one for one in entry_points(group=group) if one.name == name]
    if not found:
        others = sorted({*known, *(one.name for one in entry_points(group=group))})
        have = ", ".join(map(repr, others)) or "none"
        raise Broken(
            f"{setting} is {name!r}, and no distribution here has that in {group} (there is: {have})"
        )
    if len(found) > 1:
        raise Broken(f"{setting} is {name!r}, which several have in {group}: {', '.join(map(_owner, found))}")
    (entry,) = found
    try:
        loaded = entry.load()
        version = getattr(sys.modules[entry.module], _DECLARATION, None)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise Broken(f"{setting}: {entry.value} of {_owner(entry)} cannot be imported: {text}") from error
    if version != VERSION:
        said = "does not say" if version is None else f"says {version!r}"
        raise Broken(
            f"{setting}: {entry.module} of {_owner(entry)} {said} in {_DECLARATION} for which version it is; "
            f"this crib has {VERSION}"
        )
    return loaded


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown distribution"


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the settings ask for, beside handlers and networks."""

    store: Callable[..., Any] | None = None
    """A class as `crib.backends.images.store.LayerStore`; None: that one."""
    verifiers: tuple[ImageVerifier, ...] = ()
    hooks: tuple[LifecycleHook, ...] = ()


NO_EXTENSIONS = Extensions()


def load_extensions(settings: Settings) -> Extensions:
    """Import them. Broken for the first that cannot be used."""
    images = settings.images
    store = None
    if images.store.layer_store:
        store = load(STORES, images.store.layer_store, "images.layer_store")
    limit = images.trust.verifier_timeout
    setting = "images.verifier_extensions"
    verifiers = [(name, load(VERIFIERS, name, setting)) for name in images.store.verifier_extensions]
    return Extensions(
        store,
        tuple(ThreadedVerifier(name, verify, limit) for name, verify in verifiers),
        tuple(_hook(number, one) for number, one in enumerate(settings.hooks)),
    )


def _hook(number: int, settings: HookSettings) -> LifecycleHook:
    setting = f"hooks[{number}].name"
    loaded = load(HOOKS, settings.name, setting)
    try:
        found = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise Broken(f"{setting}: {settings.name} cannot be made: {text}") from error
    names = [name for name in dir(found) if name.startswith(("before_", "after_"))]
    odd = [name for name in names if name.partition("_")[2] not in VERBS]
    if odd or not names:
        what = f"has {', '.join(odd)}" if odd else "has no function"
        raise Broken(f"{setting}: {settings.name} {what}; verbs are {', '.join(VERBS)}")
    return ThreadedHook(settings, {name: getattr(found, name) for name in names})


class ThreadedHook:
    """Calls a hook's functions in a thread, each with the limit of the settings."""

    def __init__(self, settings: HookSettings, functions: Mapping[str, Callable[[View], object]]) -> None:
        self.name = settings.name
        self.moments = frozenset(functions)
        self.failure_refuses = settings.on_error == "refuse"
        self._functions = functions
        self._limit = settings.timeout

    async def call(self, moment: str, view: View) -> None:
        """See LifecycleHook."""
        job = Job(f"hook {self.name}, {moment}", f"hook {self.name}", self._limit)
        try:
            await FOREIGN.run(job, self._functions[moment], view)
        except (Refused, asyncio.CancelledError):
            raise
        except Overdue as error:
            raise HookFailed(f"it did not return within {self._limit:g} s") from error
        except Exception as error:
            raise HookFailed(f"{type(error).__name__}: {error}") from error


class ThreadedVerifier:
    """Calls a verifier's function in a thread, with the limit of the settings."""

    def __init__(self, name: str, verify: Callable[[SuspectImage], str], limit: float) -> None:
        self.name = name
        self._verify = verify
        self._limit = limit

    async def problem(self, suspect: SuspectImage) -> str:
        """See ImageVerifier."""
        job = Job(f"image verifier {self.name}", f"verifier {self.name}", self._limit)
        try:
            return str(await FOREIGN.run(job, self._verify, suspect) or "")
        except asyncio.CancelledError:
            raise
        except Overdue:
            return f"verifier {self.name} did not return within {self._limit:g} s"
        except Exception as error:
            return f"verifier {self.name} failed: {type(error).__name__}: {error}"
