"""Fixtures of the cache's tests."""

from __future__ import annotations

import pytest
from cache_support import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
