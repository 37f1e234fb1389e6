"""Texts of configurations that several tests use."""

from __future__ import annotations

import re


def uncommented(text: str) -> str:
    """The default configuration with every key set."""
    return re.sub(r"^#(?=[^ ])", "", text, flags=re.MULTILINE)
