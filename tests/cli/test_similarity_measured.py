"""What `stats` says of similarity: how often it would do, and how often that would be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_enhance.commands.output import print_json
from vllm_enhance.commands.stats import measured, summary, upper


def look(*samples: tuple[str, dict[str, str], float]) -> dict[str, Any]:
    return {"at": 1.0, "series": [{"name": name, "labels": labels, "value": value} for name, labels, value in samples]}


DECISIONS, VERDICTS = "vllm_enhance_similarity_decisions_total", "vllm_enhance_similarity_verdicts_total"


def test_only_verdicts_on_would_be_hits_measure_the_error() -> None:
    found = summary(
        look(
            (DECISIONS, {"action": "reuse", "reason": "accepted"}, 18),
            (DECISIONS, {"action": "audit", "reason": "audit"}, 2),
            (DECISIONS, {"action": "miss", "reason": "guard"}, 60),
            (DECISIONS, {"action": "miss", "reason": "no_neighbour"}, 20),
            (VERDICTS, {"action": "reuse", "verdict": "same"}, 14),
            (VERDICTS, {"action": "reuse", "verdict": "different"}, 1),
            (VERDICTS, {"action": "audit", "verdict": "different"}, 1),
            (VERDICTS, {"action": "miss", "verdict": "different"}, 40),
        )
    )["similarity"]
    assert (found["considered"], found["would_reuse"], found["judged"], found["different"]) == (100, 20, 16, 2)
    assert measured(found) == (
        "an answer for 20 of 100 looked up; of 16 that were generated all the same and judged, 12.5% differed "
        f"(at most {100 * found['different_at_most']:.1f}%, 95% sure)"
    )


def test_nothing_judged_is_said_and_nothing_seen_is_no_row() -> None:
    found = summary(look((DECISIONS, {"action": "reuse", "reason": "accepted"}, 3)))["similarity"]
    assert measured(found) == "an answer for 3 of 3 looked up; none of them judged"
    assert summary(look())["similarity"]["considered"] == 0


@pytest.mark.parametrize(
    ("count", "of", "least", "most"), [(0, 0, 1, 1), (0, 50, 0.04, 0.06), (5, 50, 0.17, 0.20), (50, 50, 0.999, 1.0)]
)
def test_the_upper_end_of_a_share(count: int, of: int, least: float, most: float) -> None:
    assert least <= upper(count, of) <= most


def test_json_has_no_number_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"rate": float("nan"), "spread": (float("inf"), 1.5)}, indent=None)
    assert capsys.readouterr().out == '{"rate": null, "spread": [null, 1.5]}\n'
