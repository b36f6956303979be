"""What a decision is made from: the vote of the neighbours, the words of the pair, the guards' hints, the record.

Pure. The names below are the columns, in order; a stored model is only used with the same names.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from vllm_enhance_similarity.guards.compare import same_wording
from vllm_enhance_similarity.guards.facts import read_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from vllm_enhance_similarity.guards.facts import TextFacts
    from vllm_enhance_similarity.policies.base import Neighbour

__all__ = ["FEATURES", "Vote", "feature_row", "take_vote"]

NEIGHBOURS = 8
_SHARPNESS = 15.0  # weight of a vote: exp(15 * (similarity - nearest similarity))

_EXCHANGED_NAME = frozenset(("entity", "substitution"))
_EXCHANGES = frozenset(("entity", "substitution", "quoted"))  # hints of guards that see one thing in another's place
_WITNESSES = 2


class Vote(NamedTuple):
    """The outcome of the neighbours' vote: the answer with the largest weight, and who shall stand for it.

    `stands`: the choice may be reused. If not, comparing its answer is worth while all the same.
    `contested`: there was another answer to vote for, or at least a full set of voters. That nobody in a nearly empty
    index disagrees is no agreement.
    `verbatim`: the choice has the same words in the same order, courtesies aside, and no guard objects or doubts.
    """

    choice: Neighbour
    share: float
    margin: float
    members: tuple[Neighbour, ...]
    best_other: float
    groups: int
    stands: bool = True
    contested: bool = True
    verbatim: bool = False


def take_vote(text: str, neighbours: Sequence[Neighbour]) -> Vote | None:
    """Let the nearest neighbours of `text` vote. None if there are none, or if guards veto every member of the winner.

    The winner is represented by its nearest member that may stand (see `_may_stand`); the others vote, but are not
    reused.
    """
    voters = neighbours[:NEIGHBOURS]
    if not voters:
        return None
    nearest = voters[0].similarity
    weights: dict[bytes, float] = {}
    for voter in voters:
        weights[voter.group] = weights.get(voter.group, 0.0) + math.exp(_SHARPNESS * (voter.similarity - nearest))
    winner = max(weights, key=lambda group: weights[group])
    members = tuple(voter for voter in voters if voter.group == winner)
    free = [member for member in members if not member.vetoes]
    if not free:
        return None
    standing = next((member for member in free if _may_stand(text, member, members)), None)
    choice = standing or free[0]
    total = sum(weights.values())
    second = max((weight for group, weight in weights.items() if group != winner), default=0.0)
    others = [voter.similarity for voter in voters if voter.group != winner]
    return Vote(
        choice=choice,
        share=weights[winner] / total,
        margin=(weights[winner] - second) / total,
        members=members,
        best_other=others[0] if others else voters[-1].similarity,
        groups=len(weights),
        stands=standing is not None,
        contested=len(weights) > 1 or len(voters) == NEIGHBOURS,
        verbatim=not choice.hints and _same_words(text, choice.text),
    )


def _same_words(text: str, other: str) -> bool:
    one, its = read_facts(text), read_facts(other)
    return bool(one.wording) and same_wording(one, its)


def _may_stand(text: str, member: Neighbour, members: Sequence[Neighbour]) -> bool:
    """Not when it differs by an exchanged name alone: its answer is about something else, whatever traffic taught.

    Where a word is exchanged, does the answer hang on that word? The embedding does not say, nor does a model of how
    much is shared. What says so are witnesses: questions that do without the word and have that answer all the same.
    """
    if {*member.hints} >= _EXCHANGED_NAME:
        return False
    if _EXCHANGES.isdisjoint(member.hints):
        return True
    exchanged = read_facts(member.text).bag - read_facts(text).bag
    return sum(not exchanged <= read_facts(each.text).bag for each in members) >= _WITNESSES


FEATURES = (
    "nearness",
    "share",
    "margin",
    "gap",
    "mean_nearness",
    "spread",
    "agreeing",
    "groups",
    "behind",
    "group_nearness",
    "nearness_high",
    "nearness_top",
    "nearness_share",
    "nearness_margin",
    "margin_high",
    "gap_nearness",
    "unanimous",
    "vetoed_members",
    "entry_record",
    "group_record",
    "overlap",
    "coverage",
    "coverage_high",
    "coverage_top",
    "coverage_nearness",
    "rarest_asked",
    "rarest_stored",
    "missing_asked",
    "missing_stored",
    "bigrams",
    "trigrams",
    "same_words",
    "same_first_word",
    "same_question_type",
    "length_ratio",
    "length",
    "hint_entity",
    "hint_entity_extra",
    "hint_substitution",
    "hint_length",
    "hint_case",
    "hint_wording",
)


def feature_row(
    text: str,
    neighbours: Sequence[Neighbour],
    vote: Vote,
    rarity: Callable[[str], float],
    record: Callable[[bytes], float],
) -> tuple[float, ...]:
    """One row of FEATURES.

    Args:
        rarity: inverse document frequency of a stem among stored questions, in [0, 1].
        record: log odds of an entry's or group's right over wrong reuses so far, 0 without history.
    """
    return (*_vote_features(neighbours[:NEIGHBOURS], vote, record), *_pair_features(text, vote, rarity))


def _nearness(similarity: float) -> float:
    """-log of the distance: the last hundredths of a cosine say more than the first tenths."""
    return -math.log(max(1.0 - similarity, 0.0) + 0.004)


def _vote_features(voters: Sequence[Neighbour], vote: Vote, record: Callable[[bytes], float]) -> tuple[float, ...]:
    similarities = [voter.similarity for voter in voters]
    own = vote.choice.similarity
    near = _nearness(own)
    gap = own - vote.best_other
    mean = sum(similarities) / len(similarities)
    return (
        near,
        vote.share,
        vote.margin,
        gap,
        _nearness(mean),
        similarities[0] - similarities[-1],
        len(vote.members) / NEIGHBOURS,
        vote.groups / NEIGHBOURS,
        similarities[0] - own,
        _nearness(sum(member.similarity for member in vote.members) / len(vote.members)),
        max(0.0, near - 2.0),
        max(0.0, near - 3.0),
        vote.share * near,
        vote.margin * near,
        max(0.0, vote.margin - 0.5),
        gap * near,
        float(vote.groups == 1),
        sum(bool(member.vetoes) for member in vote.members) / len(vote.members),
        record(vote.choice.key),
        record(vote.choice.group),
    )


def _pair_features(text: str, vote: Vote, rarity: Callable[[str], float]) -> tuple[float, ...]:
    asked, stored = read_facts(text), read_facts(vote.choice.text)
    mine, theirs = asked.bag, stored.bag
    only_mine, only_theirs = [rarity(word) for word in mine - theirs], [rarity(word) for word in theirs - mine]
    shared = sum(rarity(word) for word in mine & theirs)
    missing_mine, missing_theirs = sum(only_mine), sum(only_theirs)
    whole = shared + missing_mine + missing_theirs
    coverage = shared / whole if whole > 0 else float(mine == theirs)
    hints = vote.choice.hints
    return (
        _overlap(mine, theirs),
        coverage,
        max(0.0, coverage - 0.6),
        max(0.0, coverage - 0.9),
        coverage * _nearness(vote.choice.similarity),
        max(only_mine, default=0.0),
        max(only_theirs, default=0.0),
        math.log1p(missing_mine),
        math.log1p(missing_theirs),
        _overlap(_bigrams(asked), _bigrams(stored)),
        _overlap(_trigrams(text), _trigrams(vote.choice.text)),
        float(len(asked.tokens) == len(stored.tokens) and sorted(asked.tokens) == sorted(stored.tokens)),
        float(asked.tokens[:1] == stored.tokens[:1]),
        float(asked.question == stored.question),
        min(len(asked.tokens), len(stored.tokens)) / max(1, len(asked.tokens), len(stored.tokens)),
        math.log1p(len(asked.tokens)),
        float("entity" in hints),
        float("entity_extra" in hints),
        float("substitution" in hints),
        float("length" in hints),
        float("case" in hints),
        float("wording" in hints),
    )


def _overlap(one: AbstractSet[object], other: AbstractSet[object]) -> float:
    both = len(one & other)
    return both / max(1, len(one) + len(other) - both)


def _bigrams(facts: TextFacts) -> set[object]:
    return {*pairwise(facts.stems)}


def _trigrams(text: str) -> set[object]:
    padded = f" {text.lower()[:400]} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}
