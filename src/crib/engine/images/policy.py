"""The image policy: which images may be pulled and run (settings `images.policy` and `images.verifiers`).

The first rule whose pattern matches the image's name decides. If none matches, the image is accepted. Rules
are applied when an image is pulled or imported, and again when a container is made of it: so a new rule also
holds for old images. Verifier programs are asked at the pull. A rule in audit mode only logs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from crib.model.errors import SIGNATURE_VALIDATION_FAILED, InvalidRequest, WrongState
from crib.model.ids import Digest
from crib.model.image import FetchedImage, ImageRecord, ImageReference, SuspectImage, parse_reference
from crib.model.image_settings import ImagePolicy, TrustSettings
from crib.model.registry import registry_pattern, spellings
from crib.ports.extensions import ImageVerifier
from crib.ports.images import Images

_log = logging.getLogger(__name__)

_ACCEPT = ImagePolicy()


class PolicyGuard:
    """Refuses with WrongState, reason SignatureValidationFailed: the word that the kubelet has for it."""

    def __init__(
        self, settings: TrustSettings, images: Images, verifiers: Sequence[ImageVerifier] = ()
    ) -> None:
        self._verifiers = verifiers
        self._images = images
        self.adapt(settings)

    def adapt(self, settings: TrustSettings) -> None:
        """Go by these rules from now on."""
        self._rules = tuple((_pattern(rule.match), rule) for rule in settings.policy)
        self._programs = settings.verifiers

    def rule(self, reference: ImageReference) -> ImagePolicy:
        """The rule that decides on this image."""
        return next((rule for pattern, rule in self._rules if _fits(pattern, reference.name)), _ACCEPT)

    def looks_at(self, reference: ImageReference) -> bool:
        """Whether more than the name has to be seen before layers are fetched."""
        return bool(self._programs or self._verifiers) or self.needs_signatures(reference)

    def needs_signatures(self, reference: ImageReference) -> bool:
        """Whether a pull has to bring them."""
        return self.rule(reference).action == "signed"

    def explain(self, reference: ImageReference) -> str:
        """What will be asked of this image, for people."""
        rule = self.rule(reference)
        text = f"{rule.action} (rule {rule.match!r})" if rule is not _ACCEPT else "accept (no rule)"
        if rule.action == "signed":
            text += f" by one of {', '.join(rule.keys)}"
        if rule.audit:
            text += ", audit only"
        names = (*self._programs, *(verifier.name for verifier in self._verifiers))
        return f"{text}; verifiers: {', '.join(names)}" if names else text

    def before_pull(self, reference: ImageReference) -> None:
        """Refuse what the name alone rules out, before anything is fetched."""
        rule = self.rule(reference)
        if rule.action == "reject":
            self._refuse(rule, reference, "it rejects this image")
        if rule.action == "digest" and not reference.digest:
            self._refuse(rule, reference, "it requires a digest in the name")

    def before_import(self, reference: ImageReference) -> None:
        """An archive proves nothing of where it is from: what is rejected by name is refused at once."""
        rule = self.rule(reference)
        if rule.action == "reject":
            self._refuse(rule, reference, "it rejects this image")

    async def before_layers(self, reference: ImageReference, image: FetchedImage) -> None:
        """What has to be seen: signatures, and the verdict of the verifier programs."""
        if image.manifest_digest is None:
            return
        rule = self.rule(reference)
        if rule.action == "signed":
            suspect = SuspectImage(reference, image.manifest_digest, image.signatures, keys=rule.keys)
            if problem := await self._images.verify(suspect):
                self._refuse(rule, reference, problem)
        if self._programs:
            suspect = SuspectImage(reference, image.manifest_digest, (), programs=self._programs)
            _refuse_plainly(reference, await self._images.verify(suspect))
        suspect = SuspectImage(reference, image.manifest_digest, ())
        for verifier in self._verifiers:
            _refuse_plainly(reference, await verifier.problem(suspect))

    async def before_run(self, record: ImageRecord, name: str) -> None:
        """Whether a container may be made of an image that is here.

        The name that the user gave decides, if the image has it, else any of the image's names will do.
        """
        if not self._rules:
            return
        known = [parse_reference(text) for text in (*record.tags, *record.digests)]
        references = [given] if (given := _given(name, known)) is not None else known
        if not references:
            references = [ImageReference("", record.id)]
        refusals: list[WrongState] = []
        for reference in references:
            try:
                await self._run_as(record, reference)
            except WrongState as error:
                refusals.append(error)
            else:
                return
        raise refusals[0]

    async def _run_as(self, record: ImageRecord, reference: ImageReference) -> None:
        rule = self.rule(reference)
        if rule.action == "reject":
            self._refuse(rule, reference, "it rejects this image")
        if rule.action == "digest" and not reference.digest:
            self._refuse(rule, reference, "it requires a digest in the name")
        if rule.action == "signed":
            problems = []
            for digest in _digests(record, reference):
                problem = await self._images.verify(
                    SuspectImage(reference, digest, record.signatures, keys=rule.keys)
                )
                if not problem:
                    return
                problems.append(problem)
            self._refuse(rule, reference, problems[0] if problems else "it did not come from a registry")

    def _refuse(self, rule: ImagePolicy, reference: ImageReference, problem: str) -> None:
        text = f"image {reference} is refused by the image policy {rule.match!r} ({rule.action}): {problem}"
        if rule.audit:
            _log.warning("audit: %s", text)
            return
        raise WrongState(text, reason=SIGNATURE_VALIDATION_FAILED)


def _refuse_plainly(reference: ImageReference, problem: str) -> None:
    if problem:
        text = f"image {reference} is refused: {problem}"
        raise WrongState(text, reason=SIGNATURE_VALIDATION_FAILED)


def _pattern(text: str) -> re.Pattern[str]:
    """What an administrator writes of a registry means what a name of it means, however either is spelled."""
    end = "/" if "/" in text else "*"
    host, found, rest = text.partition(end)
    text = f"{registry_pattern(host, whole=end == '/')}{found}{rest}"
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _fits(pattern: re.Pattern[str], name: str) -> bool:
    registry, _, rest = name.partition("/")
    return any(pattern.fullmatch(f"{spelling}/{rest}") for spelling in spellings(registry))


def matches_any(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Whether one of the names fits one of the patterns, in which `*` stands for any characters."""
    return any(_fits(_pattern(pattern), name) for pattern in patterns for name in names)


def _given(name: str, known: list[ImageReference]) -> ImageReference | None:
    try:
        given = parse_reference(name)
    except InvalidRequest:
        return None
    fits = (
        given.name == other.name
        and (given.digest == other.digest if given.digest else given.tag == other.tag)
        for other in known
    )
    return given if any(fits) else None


def _digests(record: ImageRecord, reference: ImageReference) -> list[Digest]:
    if reference.digest:
        return [Digest(reference.digest)]
    return [
        Digest(text.partition("@")[2]) for text in record.digests if text.startswith(f"{reference.name}@")
    ]
