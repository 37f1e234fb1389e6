"""Settings as tests want them."""

from __future__ import annotations

import dataclasses
from typing import Any

from crib.model.image_settings import ImageSettings


def image_settings(**keys: Any) -> ImageSettings:
    """The defaults of `[images]`, but for these keys, whichever part each belongs to."""
    settings = ImageSettings()
    for part in dataclasses.fields(settings):
        default = getattr(settings, part.name)
        own = {field.name for field in dataclasses.fields(default)} & keys.keys()
        changed = dataclasses.replace(default, **{key: keys.pop(key) for key in own})
        settings = dataclasses.replace(settings, **{part.name: changed})
    assert not keys, f"[images] has no {', '.join(keys)}"
    return settings
