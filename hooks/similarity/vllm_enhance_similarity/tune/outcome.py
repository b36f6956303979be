"""What the replays say: a row for each setting, and the setting to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vllm_enhance_similarity.tune.estimate import Estimate, Stratum, estimate_error, share_band
from vllm_enhance_similarity.tune.labelling import judged_strata, pair_pool
from vllm_enhance_similarity.tune.replay import Replay
from vllm_enhance_similarity.tune.sweep import Setting
from vllm_enhance_similarity.tune.traffic import Traffic

__all__ = ["Advice", "Outcome", "advise", "outcomes", "rejudge", "top_questions"]

HALF = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One setting's result; rates are shares of all requests of its replay.

    Attributes:
        hit_rate: answered with a similar question's answer.
        exact_rate: answered as exact repeats besides.
        saved_rate: both together: what is not generated.
        repeat_rate: what exact repeats would save without similarity.
        judged: hits with a verdict.
    """

    setting: Setting
    replay: Replay
    hit_rate: Estimate
    error: Estimate
    exact_rate: float
    saved_rate: Estimate
    repeat_rate: float
    judged: int


def rejudge(traffic: Traffic, replays: Mapping[Setting, Replay]) -> None:
    """Take over verdicts that came after the replay."""
    for each in replays.values():
        each.hits = [
            type(hit)(hit.asked, hit.stored, hit.similarity, traffic.truth(hit.asked, hit.stored)) for hit in each.hits
        ]


def outcomes(traffic: Traffic, replays: Mapping[Setting, Replay]) -> list[Outcome]:
    """A row for each setting, by policy and value."""
    pool: list[Stratum] = judged_strata(traffic, pair_pool(each.hits for each in replays.values()))
    rows = []
    for setting in sorted(replays, key=lambda each: (each.policy, each.value)):
        each = replays[setting]
        rows.append(
            Outcome(
                setting,
                each,
                share_band(len(each.hits), each.requests),
                estimate_error(each.hits, each.requests, pool=pool),
                each.exact / max(1, each.requests),
                share_band(len(each.hits) + each.exact, each.requests),
                each.repeats / max(1, each.requests),
                sum(hit.right is not None for hit in each.hits),
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Advice:
    """Recommended settings and the reason for them.

    Attributes:
        settings: by name, as text; for `vllm serve --config`.
        chosen: the setting that they stand for, or ``None`` when nothing may be switched on yet.
    """

    settings: dict[str, str]
    reason: str
    chosen: Outcome | None


def advise(rows: Sequence[Outcome], max_error: float, embedding_model: str) -> Advice:
    """The setting with most hits whose error stays within the bound, upper end of its band included.

    When too little is judged to say so, shadow mode is recommended, which measures on live traffic and serves nothing.
    """
    common = {"enhance-embedding-model": embedding_model} if embedding_model else {}
    # A bound above what is allowed is no promise, however well it went here.
    rows = [row for row in rows if row.setting.policy != "bounded" or row.setting.value <= max_error]
    fitting = [row for row in rows if row.error.high <= max_error and row.replay.hits]
    best = max(fitting, key=lambda row: row.saved_rate.value, default=None)
    if best is None:
        settings = {
            **common,
            "enhance-similarity-mode": "shadow",
            "enhance-similarity-policy": "auto",
            "enhance-similarity-max-error": f"{max_error:g}",
        }
        return Advice(
            settings,
            f"No setting can be shown to stay within {100 * max_error:g}% wrong answers. Shadow mode measures on live "
            "traffic and serves nothing; more verdicts (--label) sharpen the bands here.",
            None,
        )
    settings = {**common, "enhance-similarity-mode": "on", "enhance-similarity-policy": best.setting.policy}
    name = "enhance-similarity-threshold" if best.setting.policy == "threshold" else "enhance-similarity-max-error"
    settings[name] = f"{best.setting.value:g}"
    reason = (
        f"Of the settings tried it saves most: {100 * best.saved_rate.value:.1f}% of requests are not generated, "
        f"against {100 * best.repeat_rate:.1f}% with exact repeats alone, and {100 * best.error.value:.2f}% of all get "
        f"a wrong answer (at most {100 * best.error.high:.2f}%, 95% sure)."
    )
    if best.judged < HALF * len(best.replay.hits):
        reason += (
            f" Only {best.judged:,} of its {len(best.replay.hits):,} reuses are judged; the others are taken to be "
            "wrong as often, which holds when the judged ones were picked at random, as --label does."
        )
    if best.setting.policy == "bounded":
        reason += " The bounded policy needs a judge on live traffic (--enhance-similarity-judge)."
        settings["enhance-similarity-judge"] = "auto"
    return Advice(settings, reason, best)


def top_questions(traffic: Traffic, chosen: Outcome | None, count: int) -> list[tuple[str, int, int]]:
    """Most frequent questions: text, requests, and how many of those came in other words."""
    stands_for = {hit.asked: hit.stored for hit in chosen.replay.hits} if chosen else {}
    requests, reworded = Counter[int](), Counter[int]()
    for text in traffic.asked:
        answer = stands_for.get(text, text)
        requests[answer] += 1
        reworded[answer] += answer != text
    return [(traffic.texts[text], number, reworded[text]) for text, number in requests.most_common(count)]
