"""Two requests share a key exactly when the engine would be asked the very same thing."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import (
        RepetitionDetectionParams,
        RequestOutputKind,
        SamplingParams,
        StructuredOutputsParams,
    )

from vllm_enhance.engine.key import (
    CONTROL_ARGUMENT,
    DELIVERY_FIELDS,
    FLOAT_FIELDS,
    RequestKey,
    Unkeyable,
    encode,
    request_key,
    sampling_items,
)

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.one_of(st.sampled_from(["", "a", "ab", "b", "a\x00b", "\x00", "é", "\ud800"]), st.text(max_size=6))
SMALL = st.integers(-3, 300)
PLAIN = st.one_of(st.none(), st.booleans(), SMALL, st.floats(allow_nan=False, width=32), TEXTS, st.binary(max_size=4))
NESTED = st.recursive(
    PLAIN, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)), max_leaves=8
)
STRUCTURED = st.one_of(
    st.builds(lambda regex: StructuredOutputsParams(regex=regex), st.sampled_from(["a+", "b+"])),
    st.builds(lambda choice: StructuredOutputsParams(choice=choice), st.lists(st.sampled_from("abc"), min_size=1)),
    st.builds(
        lambda kind, strict: StructuredOutputsParams(json={"type": kind}, disable_any_whitespace=strict),
        st.sampled_from(["object", "string"]),
        st.booleans(),
    ),
)
FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "n": st.integers(1, 3),
    "presence_penalty": st.sampled_from([0.0, 0, 0.5, 1, 1.0]),
    "frequency_penalty": st.sampled_from([0.0, 0.5]),
    "repetition_penalty": st.sampled_from([1.0, 1, 1.1]),
    "temperature": st.sampled_from([1.0, 1, 0.7]),
    "top_p": st.sampled_from([1.0, 1, 0.9]),
    "top_k": st.sampled_from([0, 5, 50]),
    "min_p": st.sampled_from([0.0, 0.1]),
    "seed": st.sampled_from([None, 0, 1, 2**40]),
    "stop": st.sampled_from([None, "a", "ab", ["a"], ["a", "b"], ["ab"], ["b", "a"]]),
    "stop_token_ids": st.sampled_from([None, [1], [1, 2], [12]]),
    "ignore_eos": st.booleans(),
    "max_tokens": st.sampled_from([None, 16, 17]),
    "min_tokens": st.sampled_from([0, 3]),
    "logprobs": st.sampled_from([None, 0, 1, 5]),
    "prompt_logprobs": st.sampled_from([None, 0, 1]),
    "logprob_token_ids": st.sampled_from([None, [1], [2, 3]]),
    "flat_logprobs": st.booleans(),
    "detokenize": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "spaces_between_special_tokens": st.booleans(),
    "include_stop_str_in_output": st.booleans(),
    "logit_bias": st.sampled_from([None, {1: 1.0}, {1: 1.0, 2: -1.0}, {2: -1.0, 1: 1.0}, {12: 1.0}]),
    "allowed_token_ids": st.sampled_from([None, [1, 2], [12]]),
    "bad_words": st.sampled_from([None, ["a"], ["ab"], ["a", "b"]]),
    "extra_args": st.one_of(st.none(), st.dictionaries(st.sampled_from(["x", "y", "enhance"]), NESTED, max_size=3)),
    "structured_outputs": st.one_of(st.none(), STRUCTURED),
    "watermarking": st.sampled_from([None, True, False]),
    "repetition_detection": st.one_of(
        st.none(),
        st.builds(
            lambda size: RepetitionDetectionParams(max_pattern_size=size, min_pattern_size=1, min_count=3),
            st.integers(2, 4),
        ),
    ),
}
PUBLIC = {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")}


@dataclass
class Request:
    fields: dict[str, Any]
    ids: list[int]
    salt: str | None
    tenant: bytes
    lora: bytes
    identity: bytes
    epoch: bytes
    ended: bool | None
    reasoning: dict[str, Any] | None

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(**copy.deepcopy(self.fields))

    def key(self, params: Any = None) -> RequestKey:
        prompt: dict[str, Any] = {"type": "token", "prompt_token_ids": self.ids, "prompt": "not part of it"}
        if self.salt is not None:
            prompt["cache_salt"] = self.salt
        return request_key(
            prompt=prompt,
            params=params or self.params,
            identity=self.identity,
            epoch=self.epoch,
            tenant=self.tenant,
            lora=self.lora,
            reasoning_ended=self.ended,
            reasoning_kwargs=self.reasoning,
        )

    def meaning(self) -> Any:
        """What the engine is asked, written in another way than the key: Python values compared with their types."""
        params = self.params
        said = {}
        for name in PUBLIC - DELIVERY_FIELDS:
            value = getattr(params, name)
            if name in FLOAT_FIELDS:
                value = float(value)
            if name == "extra_args":
                value = {key: item for key, item in (value or {}).items() if key != CONTROL_ARGUMENT}
            said[name] = _typed(value)
        where = (tuple(self.ids), self.salt, self.tenant, self.lora, self.identity, self.epoch)
        return said, where, _typed([self.ended, self.reasoning or None])


def _typed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ("list", [_typed(item) for item in value])
    if isinstance(value, dict):
        return ("dict", sorted(((repr(_typed(k)), _typed(v)) for k, v in value.items()), key=lambda item: item[0]))
    if isinstance(value, (StructuredOutputsParams, RepetitionDetectionParams)):
        names = getattr(value, "__dataclass_fields__", None) or type(value).__struct_fields__
        return (type(value).__name__, [(n, _typed(getattr(value, n))) for n in names if not n.startswith("_")])
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value).__name__, value)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    chosen = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=4))
    fields = {name: draw(FIELDS[name]) for name in sorted(chosen)}
    return Request(
        fields,
        draw(st.lists(st.sampled_from([0, 1, 2, 12, 256, 70000, 2**32 - 1]), max_size=4)),
        draw(st.one_of(st.none(), TEXTS)),
        draw(st.sampled_from([b"", b"t", b"tt"])),
        draw(st.sampled_from([b"", b"l", b"ll"])),
        draw(st.sampled_from([b"i", b"j"])),
        draw(st.sampled_from([bytes(8), b"12345678"])),
        draw(st.sampled_from([None, True, False])),
        draw(st.one_of(st.none(), st.dictionaries(TEXTS, PLAIN, max_size=2))),
    )


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Request, Request]:
    """Two requests that differ in little or nothing, which is where keys go wrong."""
    first = draw(requests())
    second = copy.deepcopy(first)
    other = draw(requests())
    for name in draw(st.sets(st.sampled_from(["fields", "ids", "salt", "tenant", "lora", "ended", "reasoning"]))):
        setattr(second, name, getattr(other, name))
    return first, second


def make(request: Request) -> Request:
    """The request, if vLLM would take it at all."""
    try:
        _ = request.params
    except (ValueError, VLLMValidationError):
        assume(False)
    return request


@MANY
@given(neighbours())
def test_two_requests_share_a_key_exactly_when_they_mean_the_same(pair: tuple[Request, Request]) -> None:
    first, second = make(pair[0]), make(pair[1])
    same_meaning = first.meaning() == second.meaning()
    same_key = first.key().digest == second.key().digest
    if same_key:
        assert same_meaning
    if same_meaning:
        assert same_key


@MANY
@given(requests(), st.randoms(use_true_random=False))
def test_no_order_changes_a_key(request_: Request, rng: random.Random) -> None:
    first = make(request_)

    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item)) for key, item in value.items()]
            rng.shuffle(items)
            return dict(items)
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    second = copy.deepcopy(first)
    items = list(second.fields.items())
    rng.shuffle(items)
    second.fields = {name: shuffled(value) for name, value in items}
    second.reasoning = shuffled(second.reasoning)
    assert first.key() == second.key()


@MANY
@given(requests())
def test_delivery_is_not_part_of_the_key(request_: Request) -> None:
    request_ = make(request_)
    params = request_.params
    before = request_.key(params)
    params.output_kind = RequestOutputKind.FINAL_ONLY
    params.stream_interval = 7
    params.skip_clone = True
    params.update_from_generation_config({}, 3)
    if params.structured_outputs is not None:
        params.structured_outputs._backend = "xgrammar"
    assert request_.key(params) == before


def test_every_public_field_is_either_keyed_or_delivery() -> None:
    """Each field of this vLLM, changed alone, changes the key, unless it is on the short list."""
    plain = Request({}, [1], None, b"", b"", b"i", bytes(8), None, None)
    values: dict[str, Any] = {
        "prompt_logprob_token_ids": np.array([[1, 2]]),
        "prompt_logprob_start": 1,
        "thinking_token_budget": 5,
        "trace_decode_token_ids": [1],
        "routed_experts_prompt_start": 2,
        "watermarking": True,
        "extra_args": {"x": 1},
        "structured_outputs": StructuredOutputsParams(regex="a"),
        "repetition_detection": RepetitionDetectionParams(max_pattern_size=3, min_pattern_size=1, min_count=3),
    }
    for name in sorted(PUBLIC - DELIVERY_FIELDS):
        params = SamplingParams()
        now = getattr(params, name)
        if isinstance(now, bool):  # first, because a field may have been a plain switch in an older vLLM
            value: Any = not now
        elif name in values:
            value = values[name]
        elif isinstance(now, (int, float)):
            value = now + 1
        else:
            value = [77]
        setattr(params, name, value)
        assert plain.key(params).digest != plain.key().digest, name
    for name in sorted(DELIVERY_FIELDS):
        params = SamplingParams()
        setattr(params, name, 77)
        assert plain.key(params).digest == plain.key().digest, name


def test_a_field_of_a_later_vllm_joins_the_key() -> None:
    class Later(SamplingParams, dict=True, omit_defaults=True):  # type: ignore[call-arg, misc]
        new_field: int | None = None
        _derived: int = 0

    plain = Request({}, [1], None, b"", b"", b"i", bytes(8), None, None)
    first, second, third = Later(), Later(), Later()
    second.new_field = 3
    third._derived = 3
    assert plain.key(first) == plain.key(third)
    assert plain.key(first).digest != plain.key(second).digest
    assert dict(sampling_items(second))["new_field"] == 3


@pytest.mark.parametrize("name", sorted(FLOAT_FIELDS))
def test_one_and_one_point_zero_are_the_same_request(name: str) -> None:
    plain = Request({}, [1], None, b"", b"", b"i", bytes(8), None, None)
    first, second = SamplingParams(), SamplingParams()
    setattr(first, name, 2)
    setattr(second, name, 2.0)
    assert plain.key(first) == plain.key(second)


def test_our_own_argument_says_how_not_what() -> None:
    plain = Request({}, [1], None, b"", b"", b"i", bytes(8), None, None)
    for extra in (None, {}, {"enhance": "no-store"}):
        assert plain.key(SamplingParams(extra_args=extra)) == plain.key()
    assert plain.key(SamplingParams(extra_args={"enhance": "no-store", "x": 1})) == plain.key(
        SamplingParams(extra_args={"x": 1})
    )


def test_arrays_are_keyed_by_type_shape_and_content() -> None:
    arrays = [
        np.array([1, 2, 3, 4]),
        np.array([[1, 2], [3, 4]]),
        np.array([1, 2, 3, 4], dtype=np.int32),
        np.array([1.0, 2.0]),
        np.array([1, 2, 3, 5]),
    ]
    assert len({encode(array) for array in arrays}) == len(arrays)
    assert encode(np.array([[1, 2], [3, 4]])) == encode(np.array([[1, 3], [2, 4]]).T.copy())
    assert encode(np.asfortranarray([[1, 2], [3, 4]])) == encode(np.array([[1, 2], [3, 4]]))


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        object(),
        SimpleNamespace(),
        lambda: None,
        np.array([object()]),
        np.array(["a"]),
        {"a": object()},
        [{1: object()}],
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(Unkeyable):
        encode(value)


def test_nesting_without_end_is_refused() -> None:
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    loop: dict[str, Any] = {}
    loop["self"] = loop
    for value in (nested, loop):
        with pytest.raises(Unkeyable):
            encode(value)


@pytest.mark.parametrize("ids", [[2**64], [object()], [{object(): 1}]])
def test_token_ids_without_a_form_are_refused(ids: Any) -> None:
    with pytest.raises(Unkeyable):
        Request({}, ids, None, b"", b"", b"i", bytes(8), None, None).key()


def test_token_ids_of_other_types_are_other_keys() -> None:
    """The engine refuses most of these; until it does, none may pass for another."""
    ids: list[list[Any]] = [[1], [True], [1.0], ["1"], [-1], [2**32], [None], [1, 1], [[1]], [b"1"], []]
    assert len({Request({}, each, None, b"", b"", b"i", bytes(8), None, None).key().digest for each in ids}) == len(ids)
    as_tuple = Request({}, (1, 2), None, b"", b"", b"i", bytes(8), None, None).key()
    assert as_tuple == Request({}, [1, 2], None, b"", b"", b"i", bytes(8), None, None).key()


def test_kinds_of_prompts_do_not_meet() -> None:
    def key(prompt: dict[str, Any]) -> bytes:
        return request_key(prompt=prompt, params=SamplingParams(), identity=b"i", epoch=bytes(8)).digest

    place = SimpleNamespace(offset=0, length=2)
    moved = SimpleNamespace(offset=1, length=2)
    token = {"type": "token", "prompt_token_ids": [1, 2]}
    image = {
        "type": "multimodal",
        "prompt_token_ids": [1, 2],
        "mm_hashes": {"image": ["h"]},
        "mm_placeholders": {"image": [place]},
    }
    prompts = [
        token,
        image,
        {**image, "mm_hashes": {"image": ["g"]}},
        {**image, "mm_hashes": {"audio": ["h"]}, "mm_placeholders": {"audio": [place]}},
        {**image, "mm_placeholders": {"image": [moved]}},
        {"type": "enc_dec", "encoder_prompt": token, "decoder_prompt": token},
        {"type": "enc_dec", "encoder_prompt": image, "decoder_prompt": token},
        {"type": "enc_dec", "encoder_prompt": {**token, "prompt_token_ids": [1]}, "decoder_prompt": token},
        {**token, "cache_salt": ""},
        {**token, "cache_salt": "a"},
    ]
    assert len({key(prompt) for prompt in prompts}) == len(prompts)
    with pytest.raises(Unkeyable):
        key({"type": "embeds", "prompt_token_ids": [1, 2]})


@MANY
@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), min_size=2, max_size=2, unique=True))
def test_parts_cannot_be_shifted_into_each_other(pairs: list[tuple[bytes, bytes]]) -> None:
    """``tenant="a", salt="bc"`` is not ``tenant="ab", salt="c"``."""

    def key(tenant: bytes, lora: bytes) -> bytes:
        prompt = {"type": "token", "prompt_token_ids": [1]}
        return request_key(
            prompt=prompt, params=SamplingParams(), identity=b"i", epoch=bytes(8), tenant=tenant, lora=lora
        ).digest

    assert key(*pairs[0]) != key(*pairs[1])


@MANY
@given(NESTED, NESTED)
def test_an_encoding_is_told_from_any_other_and_from_its_beginnings(first: Any, second: Any) -> None:
    one, two = encode(first), encode(second)
    assert (one == two) == (_typed(first) == _typed(second))
    if one != two:
        assert not two.startswith(one)


def test_the_partition_leaves_out_the_prompt_only() -> None:
    plain = Request({}, [1], None, b"", b"", b"i", bytes(8), None, None)
    other_prompt = Request({}, [2], None, b"", b"", b"i", bytes(8), None, None)
    assert plain.key().partition(b"a", b"b") == other_prompt.key().partition(b"a", b"b")
    assert plain.key().partition(b"a", b"b") != plain.key().partition(b"ab", b"")
    assert plain.key().partition(b"a", b"b") != plain.key().partition(b"b", b"a")
    for change in (
        {"tenant": b"x"},
        {"salt": "x"},
        {"lora": b"x"},
        {"identity": b"x"},
        {"epoch": b"87654321"},
        {"fields": {"seed": 1}},
        {"ended": True},
    ):
        other = copy.deepcopy(plain)
        for name, value in change.items():
            setattr(other, name, value)
        assert other.key().partition(b"a") != plain.key().partition(b"a"), change
        assert other.key().differs_from(plain.key()) != [], change


def test_structs_of_msgspec_are_encoded_by_field() -> None:
    class One(msgspec.Struct):
        a: int = 1
        _b: int = 2

    assert encode(One()) == encode(One(_b=3))
    assert encode(One()) != encode(One(a=2))
    assert encode(Colour.RED) != encode(1)
