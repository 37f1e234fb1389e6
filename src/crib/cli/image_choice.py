"""Which images a person means: `crib images` with its filters, and what may be pruned."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crib.cli.session import CommandError
from crib.cli.times import moment
from crib.client import images
from crib.client.image_use import AT_ONCE
from crib.stubs.runtime.v1.api_pb2 import Image, ImageSpec, ImageStatusRequest
from crib.wire.crilog import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from crib.client import Connection


@dataclass(frozen=True, slots=True)
class Dated:
    """An image, and when it came here or (other runtimes) was built: ns since the epoch, 0 if unknown."""

    image: Image
    at: int


def split_filter(text: str, allowed: Iterable[str]) -> tuple[str, str]:
    """KEY=VALUE of `--filter`; CommandError for a key that is not `allowed`."""
    key, equals, value = text.partition("=")
    if not equals or key not in allowed:
        raise CommandError(f"--filter {text!r} is not one of {', '.join(f'{k}=…' for k in allowed)}", 2)
    return key, value


async def choose(
    connection: Connection, filters: Sequence[str], repository: str | None = None
) -> list[Image]:
    """The images that all filters let pass, by name."""
    tests = [_of_repository(repository)] if repository else []
    dated: list[tuple[str, str]] = []
    for text in filters:
        key, value = split_filter(text, ("dangling", "reference", "before", "since", "until"))
        if key == "dangling":
            tests.append(_dangling(value))
        elif key == "reference":
            tests.append(_of_reference(value))
        else:
            dated.append((key, value))
    found = [image for image in await images.list_images(connection) if all(test(image) for test in tests)]
    if not dated:
        return found
    times = {one.image.id: one.at for one in await with_times(connection, found)}
    for key, value in dated:
        limit = await _limit(connection, key, value)
        found = [
            image
            for image in found
            if (times[image.id] > limit if key == "since" else 0 < times[image.id] < limit)
        ]
    return found


async def _limit(connection: Connection, key: str, value: str) -> int:
    if key == "until":
        return moment(value, "--filter until", time.time_ns())
    return (await with_times(connection, [await images.resolve(connection, value)]))[0].at


async def with_times(connection: Connection, found: Sequence[Image]) -> list[Dated]:
    """The images with their times, which a runtime tells only in its verbose status."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(image: Image) -> Dated:
        request = ImageStatusRequest(image=ImageSpec(image=image.id), verbose=True)
        async with gate:
            reply = await connection.call(connection.image.ImageStatus, request)
        return Dated(image, _time_in(reply.info.get("info", "")))

    return await asyncio.gather(*map(one, found))


def _time_in(info: str) -> int:
    try:
        found = json.loads(info or "{}")
        came = found.get("record", {}).get("created_at")
        return int(came) if came else parse_time(found["imageSpec"]["created"].encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0


def is_dangling(image: Image) -> bool:
    """Whether no name leads to it; a digest is none (docker's word)."""
    return not image.repo_tags


def _dangling(value: str) -> Callable[[Image], bool]:
    if value not in ("true", "false"):
        raise CommandError(f"--filter dangling={value}: it is true or false", 2)
    return lambda image: is_dangling(image) is (value == "true")


def _of_reference(value: str) -> Callable[[Image], bool]:
    if len(value) > 1 and value.startswith("/") and value.endswith("/"):
        pattern = compiled(value[1:-1], "--filter reference")
        return lambda image: any(map(pattern.search, (*image.repo_tags, *image.repo_digests)))
    return lambda image: any(
        fnmatch.fnmatchcase(name, value) for tag in image.repo_tags for name in spellings(tag)
    )


def compiled(text: str, option: str) -> re.Pattern[str]:
    """The regular expression; CommandError names the option."""
    try:
        return re.compile(text)
    except re.error as error:
        raise CommandError(f"{option} {text!r} is no regular expression: {error}", 2) from None


def _of_repository(wanted: str) -> Callable[[Image], bool]:
    return lambda image: any(
        wanted in (name, name.rpartition(":")[0]) for tag in image.repo_tags for name in spellings(tag)
    )


def spellings(tag: str) -> tuple[str, ...]:
    """The name as it is, and as docker shortens those of its own registry."""
    short = tag.removeprefix("docker.io/")
    return (tag, short, short.removeprefix("library/")) if short != tag else (tag,)
