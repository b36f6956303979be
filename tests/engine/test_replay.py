"""A replayed answer is the native answer: vLLM's own ``OutputProcessor`` is the judge.

Each example is a made-up generation, given to vLLM once per output kind, and to a tape once (recorded from any kind,
at any chunking); then the tape is played, live or from its stored bytes, in every kind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from engine_support import (
    BOS,
    CUMULATIVE,
    DELTA,
    END,
    EOS,
    FINAL,
    KINDS,
    VOCABULARY,
    WORD_0,
    WORDS,
    Step,
    core_output,
    prompt_logprobs_of,
    read_all,
    tokenizer,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest

from vllm_enhance.engine.replay import Reader, ReplayRequest
from vllm_enhance.engine.tape import Tape
from vllm_enhance.records import decode_record, encode_record

PROMPT = list(b"question?")
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Generation:
    """Made-up tokens for each choice, cut into engine steps, in one order of arrival."""

    fields: dict[str, Any]
    tokens: list[list[int]]
    ends: list[tuple[str, int | None]]
    cuts: list[list[int]]
    order: int

    def params(self, kind: RequestOutputKind) -> SamplingParams:
        return SamplingParams(output_kind=kind, max_tokens=200, **self.fields)

    def steps(self) -> list[tuple[int, Step, bool]]:
        """Choice, step and whether it is the choice's first; interleaved at random but each choice in order."""
        rng, queues = random.Random(self.order), []
        for tokens, cuts, (finish, stop) in zip(self.tokens, self.cuts, self.ends, strict=True):
            pieces, place = [], 0
            for cut in cuts:
                if place < len(tokens):
                    pieces.append(Step(tokens[place : place + cut]))
                    place += cut
            if place < len(tokens) or not pieces:
                pieces.append(Step(tokens[place:]))
            pieces[-1] = Step(pieces[-1].tokens, finish, stop)
            queues.append(pieces)
        steps, seen = [], set()
        while any(queues):
            index = rng.choice([i for i, queue in enumerate(queues) if queue])
            steps.append((index, queues[index].pop(0), index not in seen))
            seen.add(index)
        return steps


def native(generation: Generation, kind: RequestOutputKind, *, merged: bool, interval: int = 1) -> list[RequestOutput]:
    """What a caller of plain vLLM reads: each output, or all of them merged in the collector's one slot."""
    outputs, _ = _drive(generation, kind, [], merged=merged, interval=interval)
    return outputs


def recorded(generation: Generation, kind: RequestOutputKind) -> Tape:
    """The tape of a generation that was led with ``kind``."""
    tape = Tape(generation.fields.get("n", 1))
    _drive(generation, kind, [tape], merged=False)
    return tape


def _drive(
    generation: Generation, kind: RequestOutputKind, tapes: list[Tape], *, merged: bool, interval: int = 1
) -> tuple[list[RequestOutput], OutputProcessor]:
    params = generation.params(kind)
    processor = OutputProcessor(tokenizer(), log_stats=False, stream_interval=interval)
    request = _request(params)
    queue = RequestOutputCollector(kind, request.request_id)
    n, names = params.n, ["r-1"]
    if n == 1:
        processor.add_request(request, "question?", None, 0, queue)
    else:
        parent = ParentRequest(request)
        names = []
        for index in range(n):
            name, child_params = parent.get_child_info(index)
            names.append(name)
            child = _request(child_params)
            child.request_id = name
            processor.add_request(child, "question?", parent, index, queue)
    outputs: list[RequestOutput] = []
    for index, step, first in generation.steps():
        given_prompt = (PROMPT, params.prompt_logprobs) if first and params.prompt_logprobs is not None else None
        output = core_output(
            names[index], step, logprobs=params.logprobs, prompt_logprobs=given_prompt, seed=generation.order
        )
        processor.process_outputs([output])
        if not merged:
            taken = queue.get_nowait()
            if taken is not None:
                for tape in tapes:
                    tape.ingest(taken, kind)
                outputs.append(_snapshot(taken))
    if merged:
        taken = queue.get_nowait()
        if taken is not None:
            outputs.append(_snapshot(taken))
    return outputs, processor


def _request(params: SamplingParams) -> EngineCoreRequest:
    cloned = params.clone()
    cloned.update_from_generation_config({}, EOS)
    return EngineCoreRequest(
        request_id="r-1",
        external_req_id="r",
        prompt_token_ids=list(PROMPT),
        mm_features=None,
        sampling_params=cloned,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def _snapshot(output: RequestOutput) -> RequestOutput:
    for each in output.outputs:
        each.token_ids = list(each.token_ids)
        if each.logprobs is not None:
            each.logprobs = each.logprobs[:]
    return output


def played(generation: Generation, tape: Tape, kind: RequestOutputKind, chunk: int, interval: int = 1) -> list[Any]:
    reader = _reader(generation, tape, kind, chunk, interval)
    outputs = []
    while (output := reader.read()) is not None:
        outputs.append(_snapshot(output))
    assert reader.done
    return outputs


def _reader(generation: Generation, tape: Tape, kind: RequestOutputKind, chunk: int, interval: int = 1) -> Reader:
    return Reader(
        tape,
        ReplayRequest(
            request_id="r",
            params=generation.params(kind),
            prompt_token_ids=list(PROMPT),
            prompt_text="question?",
            tokenizer=tokenizer(),
            stream_interval=interval,
            chunk=chunk,
        ),
    )


def stored(tape: Tape) -> Tape:
    """The tape after a trip through its bytes."""
    record = tape.record(prompt_tokens=len(PROMPT), created_at=0.0, seconds=1.0, first_token_seconds=0.1, model="m")
    loaded = Tape(len(tape.choices))
    loaded.load(decode_record(encode_record(record)))
    return loaded


def same(ours: Sequence[RequestOutput], theirs: Sequence[RequestOutput], kind: RequestOutputKind, n: int) -> None:
    assert read_all(ours, kind, n) == read_all(theirs, kind, n)
    assert [output.finished for output in ours][-1] is True
    assert sum(output.finished for output in ours) == 1
    assert {output.request_id for output in ours} == {"r"}
    assert all(output.prompt_token_ids == PROMPT and output.prompt == "question?" for output in ours)
    if n == 1:
        assert prompt_logprobs_of(ours) == prompt_logprobs_of(theirs)


# --------------------------------------------------------------------------- examples

TOKEN = st.one_of(
    st.integers(0, 255),  # single bytes: incomplete UTF-8 in all its forms
    st.sampled_from(range(WORD_0, WORD_0 + len(WORDS))),
    st.sampled_from([ord(letter) for letter in "ab c"]),
    st.sampled_from([BOS, END, EOS]),
)


@st.composite
def generations(draw: st.DrawFn) -> Generation:
    n = draw(st.sampled_from([1, 1, 1, 3]))
    fields: dict[str, Any] = {"n": n, "temperature": 1.0, "seed": draw(st.sampled_from([None, 5]))}
    if draw(st.booleans()):
        fields["stop"] = draw(
            st.lists(st.sampled_from(["b", "ab", "abc", "c a", "END", "é", "END!", " the"]), min_size=1, max_size=3)
        )
        fields["include_stop_str_in_output"] = draw(st.booleans())
        fields["min_tokens"] = draw(st.sampled_from([0, 0, 3, 6]))
    if draw(st.booleans()):
        fields["skip_special_tokens"] = False
        fields["spaces_between_special_tokens"] = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0 and "stop" not in fields:
        fields["detokenize"] = False
    if draw(st.booleans()):
        fields["logprobs"] = draw(st.sampled_from([0, 1, 3]))
    if draw(st.integers(0, 2)) == 0:
        fields["prompt_logprobs"] = draw(st.sampled_from([0, 2]))
    if draw(st.integers(0, 3)) == 0:
        fields["flat_logprobs"] = True
    tokens, ends, cuts = [], [], []
    for _ in range(n):
        ids = draw(st.lists(TOKEN, min_size=1, max_size=24))
        ending = draw(st.sampled_from(["length", "eos", "stop_token", "repetition"]))
        if ending == "eos":
            ids.append(EOS)
        if ending == "stop_token":
            ids.append(END)
            fields["stop_token_ids"] = [END]
        tokens.append(ids)
        ends.append(
            {"length": ("length", None), "eos": ("stop", None), "stop_token": ("stop", END)}.get(
                ending, ("repetition", None)
            )
        )
        cuts.append(draw(st.lists(st.integers(1, 6), max_size=24)) or [1] * 30)
    return Generation(fields, tokens, ends, cuts, draw(st.integers(0, 2**16)))


@SLOW
@given(generations(), st.sampled_from(KINDS), st.integers(1, 20))
def test_recorded_from_any_kind_and_replayed_in_every_kind(
    generation: Generation, led: RequestOutputKind, chunk: int
) -> None:
    tape = recorded(generation, led)
    assert tape.finished
    n = generation.fields["n"]
    for kind in KINDS:
        theirs = native(generation, kind, merged=False)
        same(played(generation, tape, kind, chunk), theirs, kind, n)
        same(played(generation, stored(tape), kind, chunk), theirs, kind, n)


@SLOW
@given(generations(), st.integers(1, 20))
def test_whole_answers_are_equal_objects(generation: Generation, chunk: int) -> None:
    """Not the concatenation only: the last object of the kinds that carry whole answers, field by field."""
    tape = stored(recorded(generation, DELTA))
    (theirs,) = native(generation, FINAL, merged=False)
    (ours,) = played(generation, tape, FINAL, chunk)
    for mine, native_one in zip(ours.outputs, theirs.outputs, strict=True):
        _same_positions(mine.logprobs, native_one.logprobs)
        mine.logprobs = native_one.logprobs
        assert mine == native_one
    _same_positions(ours.prompt_logprobs, theirs.prompt_logprobs)


def _same_positions(ours: Any, theirs: Any) -> None:
    """The same container, the same by position. vLLM's flat one may also name a sampled token twice."""
    assert type(ours) is type(theirs)
    if theirs is not None:
        assert len(ours) == len(theirs)
        assert [ours[place] for place in range(len(ours))] == [theirs[place] for place in range(len(theirs))]


@SLOW
@given(generations(), st.sampled_from(KINDS), st.integers(1, 20), st.integers(0, 40), st.data())
def test_a_late_joiner_reads_past_and_present(
    generation: Generation, kind: RequestOutputKind, chunk: int, joined_at: int, data: st.DataObject
) -> None:
    """Somebody joins after ``joined_at`` outputs of a streamed leader and reads now and then while it grows."""
    n = generation.fields["n"]
    tape, ours, reader = Tape(n), [], None
    for place, output in enumerate(native(generation, DELTA, merged=False)):
        tape.ingest(output, DELTA)
        if place == joined_at:
            reader = _reader(generation, tape, kind, chunk)
        if reader is not None and data.draw(st.booleans()):
            while (read := reader.read()) is not None:
                ours.append(_snapshot(read))
                if data.draw(st.booleans()):
                    break
    reader = reader or _reader(generation, tape, kind, chunk)
    while (read := reader.read()) is not None:
        ours.append(_snapshot(read))
    same(ours, native(generation, kind, merged=False), kind, n)


@pytest.mark.parametrize("kind", [DELTA, CUMULATIVE])
@pytest.mark.parametrize(("chunk", "interval"), [(1, 10), (1, 2), (16, 50), (3, 4)])
def test_stream_interval_longer_than_the_chunk(kind: RequestOutputKind, chunk: int, interval: int) -> None:
    """``--stream-interval 10`` with a tool parser (chunk 1): the reader must reach the end of the tape."""
    generation = Generation({"n": 1}, [list(b"a long enough answer to a question")], [("length", None)], [[1] * 99], 0)
    tape = recorded(generation, DELTA)
    ours = played(generation, tape, kind, chunk, interval)
    same(ours, native(generation, kind, merged=False, interval=interval), kind, 1)


def test_stream_interval_of_the_request() -> None:
    """A client may ask for a longer interval than the server's."""
    generation = Generation(
        {"n": 1, "stream_interval": 40},
        [list(b"a long enough answer to a question")],
        [("length", None)],
        [[1] * 99],
        0,
    )
    same(
        played(generation, recorded(generation, DELTA), DELTA, 16),
        native(generation, DELTA, merged=False),
        DELTA,
        1,
    )


def test_prompt_logprobs_survive_a_streamed_leader() -> None:
    """vLLM hands out the prompt's logprobs once and then an empty list; the tape must keep the first."""
    generation = Generation({"n": 1, "prompt_logprobs": 2}, [list(b"answer")], [("length", None)], [[1] * 9], 0)
    tape = recorded(generation, DELTA)
    (theirs,) = native(generation, FINAL, merged=False)
    (ours,) = played(generation, tape, FINAL, 16)
    assert theirs.prompt_logprobs
    assert ours.prompt_logprobs == theirs.prompt_logprobs


def test_outputs_are_fresh_objects_each_time() -> None:
    """The server edits what it gets (clamped logprobs, cumulative lists): the tape must not feel it."""
    generation = Generation(
        {"n": 1, "logprobs": 1, "prompt_logprobs": 1}, [list(b"answer")], [("length", None)], [[2] * 9], 0
    )
    tape = recorded(generation, DELTA)
    for kind in KINDS:
        before = read_all(played(generation, tape, kind, 4), kind)
        for output in played(generation, tape, kind, 4):
            output.prompt_token_ids.append(1)
            for each in output.outputs:
                each.token_ids.append(1)
                for position in each.logprobs or ():
                    for entry in position.values():
                        entry.logprob = 99.0
            for position in output.prompt_logprobs or ():
                for entry in (position or {}).values():
                    entry.logprob = 99.0
        assert read_all(played(generation, tape, kind, 4), kind) == before


def test_a_damaged_record_leaves_the_tape_as_it_was() -> None:
    """A tape that took half of a bad record would go on as a wrong answer."""
    import msgspec

    generation = Generation({"n": 1, "logprobs": 1}, [list(b"answer")], [("length", None)], [[2] * 9], 0)
    record = recorded(generation, DELTA).record(
        prompt_tokens=1, created_at=0.0, seconds=0.0, first_token_seconds=0.0, model=""
    )
    choice = record.choices[0]
    assert choice.logprobs is not None
    bad_columns = msgspec.structs.replace(choice.logprobs, ranks=choice.logprobs.ranks[:-1])
    short = msgspec.structs.replace(choice.logprobs, counts=[*choice.logprobs.counts, 7])
    for columns in (bad_columns, short):
        damaged = msgspec.structs.replace(record, choices=(msgspec.structs.replace(choice, logprobs=columns),))
        tape = Tape(1)
        with pytest.raises(ValueError):
            tape.load(damaged)
        assert not tape.started
        assert tape.choices[0].token_ids == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 2, 16])
def test_tokens_behind_a_stop_string_have_no_text(kind: RequestOutputKind, chunk: int) -> None:
    """Before 0.32 vLLM kept tokens that came in the same step behind a stop string."""
    generation = Generation({"n": 1, "stop": ["b"]}, [[97, WORD_0 + 1, 99, 99]], [("length", None)], [[1, 3]], 0)
    tape = Tape(1)
    tape.choices[0].token_ids = [97, WORD_0 + 1, 99, 99]
    tape.choices[0].text, tape.choices[0].finish_reason, tape.choices[0].stop_reason = "aa", "stop", "b"
    tape.finished = True
    (ours,) = read_all(played(generation, tape, kind, chunk), kind)
    assert (ours.text, ours.token_ids, ours.finish_reason, ours.stop_reason) == (
        "aa", [97, WORD_0 + 1, 99, 99] if kind == FINAL else ours.token_ids, "stop", "b"
    )  # fmt: skip


def test_the_vocabulary_is_what_the_examples_think() -> None:
    made = tokenizer()
    assert len(made) == VOCABULARY
    assert made.decode([WORD_0, EOS], skip_special_tokens=True) == " the"
    assert made.decode([0xC3]) == "\ufffd"
