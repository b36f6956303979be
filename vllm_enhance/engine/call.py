"""One request on its way: what vLLM passed to ``add_request``, and what we make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

from vllm_enhance.directives import NO_DIRECTIVES, merge, parse_xarg
from vllm_enhance.engine.admission import Applicant, bypass_reason
from vllm_enhance.engine.key import CONTROL_ARGUMENT, RequestKey, Unkeyable, request_key
from vllm_enhance.engine.rendered import Rendered
from vllm_enhance.engine.replay import Reader, ReplayRequest
from vllm_enhance.engine.tape import Tape
from vllm_enhance.scope import current_scope
from vllm_enhance.types import RequestContext, Rewrite

if TYPE_CHECKING:
    from vllm_enhance.engine.runtime import Runtime

__all__ = ["Call", "admit"]


@dataclass(slots=True, eq=False)
class Call:
    """A request that the plugin handles.

    Attributes:
        rendered: prompt, parameters and key, as hooks left them.
        kwargs: the other arguments of ``add_request``, by name.
        context: what hooks see.
        marks: when things happened, ``time.monotonic()`` seconds.
    """

    runtime: Runtime
    request_id: str
    rendered: Rendered
    kwargs: Mapping[str, Any]
    context: RequestContext
    marks: dict[str, float] = field(default_factory=dict)

    @property
    def prompt(self) -> Mapping[str, Any]:
        """Rendered ``EngineInput``."""
        return self.rendered.prompt

    @property
    def params(self) -> SamplingParams:
        """``SamplingParams``, without our control argument."""
        return self.rendered.params

    @property
    def key(self) -> RequestKey | None:
        """The exact key with its parts, or ``None``."""
        return self.rendered.key

    def reader(self, tape: Tape) -> Reader:
        """A place on a tape for this caller."""
        runtime, rendered = self.runtime, self.rendered
        return Reader(
            tape,
            ReplayRequest(
                request_id=self.request_id,
                params=rendered.params,
                prompt_token_ids=list((rendered.asked or rendered.decoder).get("prompt_token_ids") or ()),
                prompt_text=(rendered.asked or rendered.decoder).get("prompt"),
                lora=self.kwargs.get("lora_request"),
                tokenizer=runtime.tokenizer,
                stream_interval=runtime.stream_interval,
                chunk=runtime.replay_chunk,
            ),
        )

    def rename(self) -> None:
        """Work out key or bypass reason, from the request as it is now."""
        runtime, context, rendered = self.runtime, self.context, self.rendered
        lora = self.kwargs.get("lora_request")
        applicant = Applicant(
            rendered.prompt,
            rendered.params,
            context.directives,
            runtime.epoch.state,
            runtime.cache_sampled,
            runtime.media_obstacle,
            lora,
        )
        key: RequestKey | None = None
        reason = bypass_reason(applicant)
        if reason is None:
            try:
                key = request_key(
                    prompt=rendered.prompt,
                    params=rendered.params,
                    identity=runtime.identity,
                    epoch=context.epoch,
                    tenant=context.tenant,
                    lora=runtime.lora_identity(lora),
                    reasoning_ended=self.kwargs.get("reasoning_ended"),
                    reasoning_kwargs=self.kwargs.get("reasoning_parser_kwargs"),
                )
            except Unkeyable:
                reason = "unkeyable"
        if key is not None and runtime.pins.holds(key.digest):
            key, reason = None, "marked_wrong"
        rendered.key = key
        context.key = None if key is None else key.digest
        context.bypass_reason = reason

    def rewrite(self, context: RequestContext, change: Rewrite) -> None:
        """Apply a hook's :class:`~vllm_enhance.types.Rewrite`; nothing changes when it raises."""
        rendered, params = self.rendered, self.params
        if change.params:
            unknown = set(change.params) - set(SamplingParams.__struct_fields__)
            if unknown:
                raise ValueError(f"no such sampling fields: {', '.join(sorted(unknown))}")
            params = params.clone() if not params.skip_clone else _copied(params)
            for name, value in change.params.items():
                setattr(params, name, value)
            params.verify(*self.runtime.verify_arguments)
        if change.prompt_token_ids is not None or change.prompt_text is not None:
            if rendered.prompt["type"] != "token":
                raise ValueError("only plain token prompts can be rewritten")
            ids = change.prompt_token_ids
            if ids is None:
                ids = self._tokenized(change.prompt_text or "")
            if len(ids) >= self.runtime.max_model_len:
                raise ValueError("the rewritten prompt is longer than the model takes")
            replaced = {**rendered.prompt, "prompt_token_ids": list(ids)}
            replaced.pop("prompt_token_offsets", None)
            if change.prompt_text is not None:
                replaced["prompt"] = change.prompt_text
            elif "prompt" in replaced:
                replaced["prompt"] = self.runtime.detokenize(ids)
            if change.keep_key and rendered.asked is None:
                rendered.asked, context.asked_tokens = rendered.prompt, len(rendered.prompt["prompt_token_ids"])
            rendered.prompt = replaced
            context.prompt_token_ids = replaced["prompt_token_ids"]
        rendered.params = context.params = params
        if not change.keep_key:
            self.rename()

    def _tokenized(self, text: str) -> list[int]:
        """Tokenize as the original was: with special tokens or without, whichever gives the original ids."""
        encode, original = self.runtime.tokenizer.encode, self.prompt.get("prompt")
        for special in (False, True):
            if original is not None and encode(original, add_special_tokens=special) == self.prompt["prompt_token_ids"]:
                return list(encode(text, add_special_tokens=special))
        raise ValueError("this prompt's text does not tokenize back to its ids; rewrite the ids instead")


def admit(
    runtime: Runtime, request_id: str, prompt: Mapping[str, Any], params: SamplingParams, kwargs: Mapping[str, Any]
) -> Call:
    """Make a :class:`Call` of a rendered request.

    Raises:
        DirectiveError: the client's directives cannot be understood.
    """
    scope = current_scope.get()
    directives = scope.directives if scope is not None else NO_DIRECTIVES
    extra = params.extra_args
    if extra and CONTROL_ARGUMENT in extra:
        directives = merge(directives, parse_xarg(extra[CONTROL_ARGUMENT]))
        # Custom logits processors may refuse arguments that they do not know, so ours goes no further.
        params = _copied(params)
        params.extra_args = {key: value for key, value in extra.items() if key != CONTROL_ARGUMENT} or None
    decoder = prompt["decoder_prompt"] if prompt["type"] == "enc_dec" else prompt
    context = RequestContext(
        request_id=request_id,
        prompt_token_ids=decoder.get("prompt_token_ids") or [],
        params=params,
        model=runtime.model_name(kwargs.get("lora_request")),
        tenant=b"" if scope is None else scope.tenant,
        directives=directives,
        streaming=params.output_kind != RequestOutputKind.FINAL_ONLY,
        scope=scope,
        epoch=runtime.epoch.value,
        has_text=prompt.get("prompt") is not None,
    )
    rendered = Rendered(prompt, params, scope, runtime.detokenize)
    context.read_text, context.read_question = rendered.text, rendered.question
    call = Call(runtime, request_id, rendered, kwargs, context)
    call.rename()
    if scope is not None and len(scope.request_ids) < scope.MAX_DECISIONS:
        scope.request_ids.append(request_id)
    return call


def _copied(params: SamplingParams) -> SamplingParams:
    import copy

    return copy.copy(params)
