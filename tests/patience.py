"""How long tests wait for what should happen."""

from __future__ import annotations

import os

PATIENCE = float(os.environ.get("CRIB_TEST_PATIENCE", "1"))
"""How much longer everything may take, for machines whose CPU is emulated."""
