"""What extensions import: the views that they are given, and what they may raise. See docs/extending.md."""

from __future__ import annotations

from crib.model.extension import VERBS, VERSION, ContainerView, ImageView, PodView, Refused
from crib.model.image import SuspectImage

__all__ = ["VERBS", "VERSION", "ContainerView", "ImageView", "PodView", "Refused", "SuspectImage"]
