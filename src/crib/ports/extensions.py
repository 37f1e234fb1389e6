"""What other projects add: lifecycle hooks and image verifiers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from crib.model.extension import View
from crib.model.image import SuspectImage


class HookFailed(Exception):
    """The hook raised something else than a refusal, or did not return in time; the message says which."""


class LifecycleHook(Protocol):
    """Functions of another project, to be called before and after verbs."""

    @property
    def name(self) -> str: ...

    @property
    def moments(self) -> Collection[str]:
        """`before_VERB` and `after_VERB` that it has functions for."""
        ...

    @property
    def failure_refuses(self) -> bool:
        """Whether a verb is refused if its `before_VERB` fails; otherwise it goes on."""
        ...

    async def call(self, moment: str, view: View) -> None:
        """Raises Refused or HookFailed."""
        ...


class ImageVerifier(Protocol):
    """A judge of images that are pulled."""

    @property
    def name(self) -> str: ...

    async def problem(self, suspect: SuspectImage) -> str:
        """Why the image is not to be had, also if the verifier itself fails; empty when it is good."""
        ...
