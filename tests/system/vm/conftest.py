import os

import pytest


@pytest.fixture(scope="session")
def image() -> str:
    return os.environ["CRIB_VM_IMAGE"]
