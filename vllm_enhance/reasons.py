"""Every short label that says why a request was not answered from the cache, or why its answer was not kept.

Labels appear in ``Cache-Status`` (``detail=``), in the metrics ``vllm_enhance_requests`` and
``vllm_enhance_not_stored``, and in ``/v1/enhance/requests/{id}``. The tables in ``docs/http.md`` are made from these.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BYPASS_REASONS", "MISS_REASONS", "NOT_STORED_REASONS", "REASONS", "render_table"]

BYPASS_REASONS: Mapping[str, str] = {
    "client_bypass": "The client asked for no-store and no-cache together: plain vLLM, also out of joined generations.",
    "disabled": "The plugin stands aside: an unsupported vLLM, or too many faults of its own in a short time.",
    "fault": "A fault of the plugin; the request went on as plain vLLM and the fault was counted.",
    "paused": "Generation is paused, and a stored answer would hide it.",
    "asleep": "The engine sleeps, and a stored answer would hide it.",
    "weights_updating": "A weight update is under way, so there is no telling which model would answer.",
    "prompt_embeds": "The prompt is embeddings, not tokens, and has no exact identity.",
    "multimodal_cache": "Images or audio under a processor cache that the engine must see every request of.",
    "multimodal_unhashed": "Images or audio that vLLM gave no content hash: processor and prefix caching are both off.",
    "kv_transfer": "The request hands KV blocks from one engine to another, and the engine must see it.",
    "streaming_input": "The input arrives while the engine works, as in realtime audio.",
    "engine_request": "A program passed a ready-made engine request instead of a prompt.",
    "pooling": "Embeddings, scores and classes are not generations.",
    "lora_inplace": "The adapter is read from disk again at each use, so its content may change unseen.",
    "trace_replay": "A debugging request that dictates the tokens to decode.",
    "routed_experts": "The request asks for the experts that the engine chose, which no record keeps.",
    "prompt_token_scores": "The request asks for scores of given prompt tokens, which no record keeps.",
    "probe": "One token without text or with its logprobs, as beam search and label scoring send in great numbers.",
    "sampled": "Sampled without a seed, and --enhance-cache-sampled is off.",
    "marked_wrong": "Somebody called the stored answer wrong, so the question goes to the engine for a while.",
    "unkeyable": "Some field of the request has no exact identity, so no key could be made of it.",
}
"""The request had nothing to do with the cache: neither answered from it nor kept nor joined."""

MISS_REASONS: Mapping[str, str] = {
    "no_cache": "The client asked not to be answered from the cache.",
}
"""The request was looked at, but the client's own wish sent it to the engine."""

NOT_STORED_REASONS: Mapping[str, str] = {
    "no_store": "The client asked not to record the answer.",
    "aborted": "The generation was aborted before its end.",
    "error": "The engine ended the generation with an error.",
    "cut_by_server": "The answer was cut by a limit of the server, not of the request.",
    "tool_limits": "The answer was cut by a limit on tool calls.",
    "weights_changed": "Weights, adapters or the operator's wish changed between the question and the answer.",
    "mixed_weights": "The tokens of one answer came from two weight versions.",
    "corrupted": "vLLM marked the output as corrupted (NaN logits).",
    "debug_outputs": "The output carries routed experts or sampling masks, which no record keeps.",
    "bypass": "The request was not cacheable; its bypass reason says more.",
}
"""The answer was generated as usual, but not kept. A finished request may also carry its bypass reason here."""

REASONS: dict[str, str] = {**BYPASS_REASONS, **MISS_REASONS, **NOT_STORED_REASONS}


def render_table(reasons: Mapping[str, str]) -> str:
    """A Markdown table of labels and sentences, for the docs."""
    rows = [f"| `{label}` | {sentence} |" for label, sentence in reasons.items()]
    return "\n".join(["| Label | Meaning |", "|---|---|", *rows])
