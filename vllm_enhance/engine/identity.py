"""Which model answers: a digest that changes whenever the same prompt could get another answer.

``VllmConfig.compute_hash`` covers what shapes the compiled graph, but neither the weights' content, the tokenizer nor
``hf_overrides``; those are added here. Weight files are told apart by name, size and modification time, so that other
weights under the same name never find the old answers, and the same weights find their cache warm after a restart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vllm

from vllm_enhance.engine.key import Unkeyable, encode

__all__ = ["lora_identity", "model_identity"]

logger = logging.getLogger("vllm_enhance")

MODEL_FIELDS = (
    "model",
    "model_weights",
    "revision",
    "code_revision",
    "tokenizer",
    "tokenizer_revision",
    "tokenizer_mode",
    "dtype",
    "quantization",
    "max_model_len",
    "hf_overrides",
    "logprobs_mode",
    "generation_config",
    "override_generation_config",
    "logits_processors",
    "seed",
)
CONFIG_FIELDS = (
    "speculative_config",
    "structured_outputs_config",
    "reasoning_config",
    "lora_config",
    "watermark_config",
    "additional_config",
)
MEDIA_CACHING = (
    "mm_processor_cache",
    "mm_shm_cache",
    "mm_tensor_ipc",
    "mm_ipc",
    "skip_mm_profiling",
    "limit_per_prompt",
)
"""Beginnings of the multimodal settings that say how inputs are kept and counted, not what the model sees."""
PARALLEL_FIELDS = ("tensor_parallel_size", "pipeline_parallel_size", "decode_context_parallel_size")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".json", ".model", ".txt", ".jinja")
MAX_FILES = 4096


def model_identity(vllm_config: Any) -> bytes:
    """Digest (16 bytes) of model, weights, tokenizer and engine settings of a ``VllmConfig``."""
    model = vllm_config.model_config
    facts = {
        "vllm": vllm.__version__,
        "config": _quiet(vllm_config.compute_hash),
        "commit": str(getattr(model.hf_config, "_commit_hash", None)),
        "model": {name: _plain(getattr(model, name, None)) for name in MODEL_FIELDS},
        "engine": {name: _plain(getattr(vllm_config, name, None)) for name in CONFIG_FIELDS},
        "media": _media(model),
        "parallel": {name: _plain(getattr(vllm_config.parallel_config, name, None)) for name in PARALLEL_FIELDS},
        "files": [list(_files(path)) for path in {str(model.model), str(model.tokenizer)}],
    }
    facts["files"] = sorted(facts["files"])
    return hashlib.blake2b(encode(facts), digest_size=16, person=b"enhance-identity").digest()


def lora_identity(lora: Any) -> bytes:
    """What tells one adapter from another: name, path and files.

    ``LoRARequest`` compares by name only (``vllm/lora/request.py``), and its integer id does not survive a restart.
    """
    if lora is None:
        return b""
    path = str(lora.lora_path)
    facts = [lora.lora_name, path, list(_files(path))]
    return hashlib.blake2b(encode(facts), digest_size=16, person=b"enhance-lora").digest()


def _media(model_config: Any) -> dict[str, Any]:
    """How images and sound are read and processed: neither ``compute_hash`` nor ``mm_hashes`` has the server's part."""
    config = getattr(model_config, "multimodal_config", None)
    if config is None:
        return {}
    names = [field.name for field in dataclasses.fields(config) if not field.name.startswith(MEDIA_CACHING)]
    return {name: _plain(getattr(config, name)) for name in names}


def _files(path: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and modification time (ns) of the files that make a local model or adapter."""
    folder = Path(path)
    if not folder.exists():
        return
    found = [folder] if folder.is_file() else sorted(folder.iterdir())
    for file in found[:MAX_FILES]:
        if file.suffix in WEIGHT_SUFFIXES and file.is_file():
            status = os.stat(file)
            yield file.name, status.st_size, status.st_mtime_ns


def _plain(value: Any) -> Any:
    """The value if it has a canonical form, else its text."""
    try:
        encode(value)
    except Unkeyable:
        return repr(value)
    return value


def _quiet(function: Any) -> str:
    try:
        return str(function())
    except Exception as error:
        logger.debug("vLLM's compute_hash failed: %s", error)
        return ""
