"""Which earlier request came nearest to one that missed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllm_enhance.engine.nearest import HEAD, nearest_request
from vllm_enhance.explain import ExplainLog


class Params(msgspec.Struct):
    """As vLLM's, with fewer fields."""

    temperature: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


def remembered(*requests: dict[str, Any]) -> ExplainLog:
    log = ExplainLog(100)
    for at, request in enumerate(requests):
        parts = [(name, request.get(name, b"same")) for name in ("tenant", "salt", "lora", "prompt", "sampling")]
        log.write(
            f"r{at}", at=float(at), parts=parts, params=request.get("params", Params()), head=request.get("head", [1])
        )
    return log


def nearest(log: ExplainLog, request_id: str) -> dict[str, Any] | None:
    entry = log.read(request_id)
    assert entry is not None
    return nearest_request(log, entry)


def test_the_first_request_has_none() -> None:
    log = remembered({}, {})
    assert nearest(log, "r0") is None
    assert nearest(log, "r1") == {"request_id": "r0", "differs_in": []}


def test_sampling_fields_are_named_and_their_values_are_not() -> None:
    log = remembered({}, {"sampling": b"other", "params": Params(temperature=0.5, stop=("secret",))})
    assert nearest(log, "r1") == {
        "request_id": "r0",
        "differs_in": ["sampling"],
        "sampling_fields": ["stop", "temperature"],
    }


def test_of_different_prompts_the_one_that_goes_along_longest() -> None:
    log = remembered(
        {"prompt": b"a", "head": [1, 2, 3, 4, 5]},
        {"prompt": b"b", "head": [1, 2, 3, 4, 9, 9]},
        {"prompt": b"c", "head": [7]},
        {"prompt": b"d", "head": [1, 2, 3, 4, 5, 6]},
    )
    assert nearest(log, "r3") == {"request_id": "r0", "differs_in": ["prompt"], "prompt_differs_at": 5}
    assert nearest(log, "r2") == {"request_id": "r1", "differs_in": ["prompt"], "prompt_differs_at": 0}


def test_fewer_parts_win_over_a_longer_way_together() -> None:
    log = remembered(
        {"prompt": b"a", "lora": b"l", "head": [1, 2, 3]}, {"prompt": b"b", "head": [9]}, {"head": [1, 2, 3, 4]}
    )
    found = nearest(log, "r2")
    assert found is not None
    assert (found["request_id"], found["differs_in"]) == ("r1", ["prompt"])


@pytest.mark.parametrize("part", ["tenant", "salt"])
def test_nothing_is_told_of_others_requests(part: str) -> None:
    """Else a caller could guess another's prompt token by token."""
    log = remembered({part: b"another", "head": [1, 2, 3]}, {"head": [1, 2, 3]}, {part: b"another", "head": [1, 2]})
    assert nearest(log, "r1") is None
    found = nearest(log, "r2")
    assert found is not None
    assert found["request_id"] == "r0"


def test_the_same_prompt_goes_along_longest_of_all() -> None:
    log = remembered(
        {"head": [1, 2, 3]}, {"prompt": b"b", "head": [1, 2, 4]}, {"sampling": b"other", "head": [1, 2, 3]}
    )
    found = nearest(log, "r2")
    assert found is not None
    assert (found["request_id"], found["differs_in"]) == ("r0", ["sampling"])


def test_prompts_that_part_after_what_is_remembered() -> None:
    head = list(range(HEAD))
    log = remembered({"prompt": b"a", "head": head}, {"prompt": b"b", "head": head})
    assert nearest(log, "r1") == {"request_id": "r0", "differs_in": ["prompt"]}
