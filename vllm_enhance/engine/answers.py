"""What a hook answered, as the engine side needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_enhance.records import RECORD_VERSION, ChoiceRecord, GenerationRecord, pack_token_ids
from vllm_enhance.scope import Decision
from vllm_enhance.types import Respond, Source

if TYPE_CHECKING:
    from vllm_enhance.engine.call import Call
    from vllm_enhance.engine.runtime import Runtime

__all__ = ["hit", "record_of"]


def hit(answer: Respond) -> Decision:
    """How a stored answer is told."""
    return Decision(
        answer.source,
        age=answer.age,
        ttl=answer.ttl,
        similarity=answer.similarity,
        detail=answer.detail or ("similar" if answer.source is Source.SIMILAR else "exact"),
    )


def record_of(runtime: Runtime, call: Call, answer: Respond) -> GenerationRecord:
    """The record to play: the stored one, or one made of a hook's plain text."""
    if answer.record is not None:
        return answer.record
    if answer.text is None or runtime.tokenizer is None:
        raise ValueError("Respond needs a record, or a text and a tokenizer")
    ids = runtime.tokenizer.encode(answer.text, add_special_tokens=False)
    end = runtime.tokenizer.eos_token_id
    # The text of the token that stops an answer is not shown, so a text needs one after it.
    choice = ChoiceRecord(pack_token_ids(ids if end is None else [*ids, end]), answer.text, "stop")
    return GenerationRecord(
        RECORD_VERSION, (choice,) * call.params.n, len(call.context.prompt_token_ids), runtime.clock()
    )
