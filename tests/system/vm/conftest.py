"""What the tests of VMs share."""

from __future__ import annotations

import pytest

from tests.system.labs.vm_guest import guest_image


@pytest.fixture(scope="session")
def image() -> str:
    """The directory of the guest's image."""
    return str(guest_image())
