"""Whether a request may be cached at all, as one table of named reasons.

The names are explained to operators in ``vllm_enhance.reasons`` and shown in ``Cache-Status``, metrics and ``explain``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_enhance.directives import Directives
from vllm_enhance.engine.epoch import ASLEEP, PAUSED, UPDATING

__all__ = ["Applicant", "bypass_reason"]


@dataclass(frozen=True, slots=True)
class Applicant:
    """A request at the door.

    Attributes:
        prompt: vLLM's rendered ``EngineInput``.
        params: ``SamplingParams``.
        directives: what the client asked for.
        state: flags of :class:`~vllm_enhance.engine.epoch.Epoch`.
        cache_sampled: setting ``cache-sampled``.
        media_obstacle: the reason of this engine's requests with images or sound, if they may not be cached.
        lora: the request's adapter.
    """

    prompt: Mapping[str, Any]
    params: Any
    directives: Directives
    state: int
    cache_sampled: bool
    media_obstacle: str | None
    lora: Any = None


def _extra(applicant: Applicant, *names: str) -> bool:
    extra = applicant.params.extra_args
    return bool(extra) and any(extra.get(name) for name in names)


def _multimodal(applicant: Applicant) -> bool:
    prompt = applicant.prompt
    parts = [prompt.get("encoder_prompt"), prompt.get("decoder_prompt")] if prompt["type"] == "enc_dec" else [prompt]
    return any(part is not None and part["type"] == "multimodal" for part in parts)


def _embeds(applicant: Applicant) -> bool:
    prompt = applicant.prompt
    return prompt["type"] == "embeds" or any(
        (prompt.get(side) or {}).get("type") == "embeds" for side in ("encoder_prompt", "decoder_prompt")
    )


def _probe(applicant: Applicant) -> bool:
    """Beam search, label reads, language detection: many one-token calls that nobody repeats."""
    params = applicant.params
    return params.max_tokens == 1 and (not params.detokenize or params.logprobs is not None)


def _sampled(applicant: Applicant) -> bool:
    params = applicant.params
    return not applicant.cache_sampled and params.temperature > 0.0 and params.seed is None


REASONS: tuple[tuple[str, Callable[[Applicant], bool]], ...] = (
    ("client_bypass", lambda a: a.directives.bypass),
    ("paused", lambda a: bool(a.state & PAUSED)),
    ("asleep", lambda a: bool(a.state & ASLEEP)),
    ("weights_updating", lambda a: bool(a.state & UPDATING)),
    ("prompt_embeds", _embeds),
    ("multimodal_cache", lambda a: a.media_obstacle == "multimodal_cache" and _multimodal(a)),
    ("multimodal_unhashed", lambda a: a.media_obstacle == "multimodal_unhashed" and _multimodal(a)),
    ("kv_transfer", lambda a: _extra(a, "kv_transfer_params", "ec_transfer_params")),
    ("lora_inplace", lambda a: bool(getattr(a.lora, "load_inplace", False))),
    ("trace_replay", lambda a: bool(getattr(a.params, "trace_decode_token_ids", None))),
    ("routed_experts", lambda a: bool(getattr(a.params, "routed_experts_prompt_start", 0))),
    ("prompt_token_scores", lambda a: getattr(a.params, "prompt_logprob_token_ids", None) is not None),
    ("probe", _probe),
    ("sampled", _sampled),
)
"""Name and test, in the order of asking; the first that holds is the reason."""


def bypass_reason(applicant: Applicant) -> str | None:
    """Why this request may not be cached, or ``None`` when it may."""
    for reason, holds in REASONS:
        if holds(applicant):
            return reason
    return None
