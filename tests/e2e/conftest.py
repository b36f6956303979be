"""One real server for all end-to-end tests; tests that need other flags start their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """Where the session's ``vllm serve --enhance`` listens."""
    url = os.environ.get("ENHANCE_TEST_BASE_URL")
    return url or request.getfixturevalue("enhance_server").base_url


@pytest.fixture(scope="session")
def model_path(tiny_model: Path) -> str:
    return str(tiny_model)
