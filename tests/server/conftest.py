from __future__ import annotations

import warnings

import pytest


@pytest.fixture(scope="session")
def vllm_server_modules() -> None:
    """vLLM's server side, imported once; what its imports warn of is not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vllm.entrypoints.launchers.app
        import vllm.entrypoints.launchers.cli_args
        import vllm.entrypoints.serve.exception_handling.register  # noqa: F401
