"""Which shim tests use."""

from __future__ import annotations

import os

from crib.model.shim_settings import RUNC

RUNTIME = os.environ.get("CRIB_TEST_SHIM", RUNC)
"""Another shim than Debian's, by its path: a newer one speaks version 3 of the task API."""
