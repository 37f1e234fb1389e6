"""`python -m crib.supervisor`."""

from __future__ import annotations

from crib.supervisor.program import main

main()
