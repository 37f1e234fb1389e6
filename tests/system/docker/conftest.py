"""The Engine that these tests share; those that harm one have their own."""

from __future__ import annotations

import pytest

from tests.system.labs.docker_engine import Engine, shared_engine

__all__ = ["shared_engine"]


@pytest.fixture(scope="module", autouse=True)
def engine(shared_engine: Engine) -> Engine:
    """Started before any test looks what is there, and what it leaves behind."""
    return shared_engine
