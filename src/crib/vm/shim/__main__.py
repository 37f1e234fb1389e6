"""`python -m crib.vm.shim`."""

from __future__ import annotations

import sys

from crib.vm.shim.main import main

sys.exit(main())
