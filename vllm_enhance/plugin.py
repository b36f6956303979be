"""The entry point that vLLM loads (group ``vllm.general_plugins``).

vLLM calls :func:`register` in the command line's process, in every API server, in the engine core and in each worker,
and an exception here would stop any of them. So it is quick, idempotent, starts nothing, and raises nothing but a
deliberate exit for a configuration that cannot be used.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["register"]


def register() -> None:
    """Prepare this process, if it is one that builds parsers or engine clients."""
    if "vllm.engine.arg_utils" not in sys.modules:
        return  # engine core, worker or model inspection: nothing of ours runs there
    try:
        from vllm_enhance.engine import activation

        activation.register()
    except Exception:
        logging.getLogger("vllm_enhance").exception("vllm-enhance could not be loaded; vLLM serves plain")
