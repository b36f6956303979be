"""Decision policies: the threshold's strictness, and that the bounded policy keeps its bound while it learns."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from vllm_enhance_similarity.policies.acceptance import AuditTally, Evidence, acceptance_level, gamma_quantile
from vllm_enhance_similarity.policies.base import Neighbour
from vllm_enhance_similarity.policies.bounded import BoundedParameters, BoundedPolicy
from vllm_enhance_similarity.policies.features import FEATURES, feature_row, take_vote
from vllm_enhance_similarity.policies.learner import learn
from vllm_enhance_similarity.policies.ledger import ErrorLedger
from vllm_enhance_similarity.policies.logistic import LogisticModel, fit_logistic
from vllm_enhance_similarity.policies.noise import JudgeNoise
from vllm_enhance_similarity.policies.terms import TermCounts
from vllm_enhance_similarity.policies.threshold import ThresholdParameters, ThresholdPolicy


def near(
    key: str, similarity: float, *, group: str = "", text: str = "how do I cook rice", **more: object
) -> Neighbour:
    return Neighbour(key.encode(), (group or key).encode(), text, similarity, **more)  # type: ignore[arg-type]


ASKED = "how do I cook rice"


class TestThreshold:
    @pytest.mark.parametrize(("similarity", "action"), [(0.951, "reuse"), (0.949, "miss")])
    def test_plain(self, similarity: float, action: str) -> None:
        assert ThresholdPolicy().decide("q", [near("a", similarity)], 0.5).action == action

    @pytest.mark.parametrize("hint", ["entity", "substitution", "quoted"])
    def test_an_exchanged_name_or_word_is_refused_however_near(self, hint: str) -> None:
        assert ThresholdPolicy().decide("q", [near("a", 0.9999, hints=(hint,))], 0.5).action == "miss"

    def test_a_weaker_hint_asks_for_more(self) -> None:
        policy = ThresholdPolicy()
        assert policy.decide("q", [near("a", 0.96, hints=("length",))], 0.5).action == "miss"
        assert policy.decide("q", [near("a", 0.98, hints=("length",))], 0.5).action == "reuse"

    def test_the_next_neighbour_steps_in_for_a_vetoed_one(self) -> None:
        decision = ThresholdPolicy().decide("q", [near("a", 0.99, vetoes=("number",)), near("b", 0.96)], 0.5)
        assert decision.choice is not None
        assert (decision.action, decision.choice.key) == ("reuse", b"b")

    def test_one_means_one_not_unset(self) -> None:
        policy = ThresholdPolicy(ThresholdParameters(1.0))
        assert policy.decide("q", [near("a", 0.999)], 0.5).action == "miss"
        assert policy.decide("q", [near("a", 1.0)], 0.5).action == "reuse"

    def test_feedback_bars_an_entry_and_survives_a_restart(self) -> None:
        policy, restarted = ThresholdPolicy(), ThresholdPolicy()
        policy.feedback(b"a", b"a")
        assert restarted.load(policy.dump())
        assert not restarted.load(b"\xc1")
        for one in (policy, restarted):
            assert one.decide("q", [near("a", 0.99)], 0.5).reason == "guard"

    def test_no_neighbours(self) -> None:
        assert ThresholdPolicy().decide("q", [], 0.5).reason == "no_neighbour"


class TestVote:
    def test_several_agreeing_outvote_one_nearer(self) -> None:
        vote = take_vote(ASKED, [near("a", 0.90), *(near(f"b{at}", 0.89, group="b") for at in range(3))])
        assert vote is not None
        assert vote.choice.group == b"b"
        assert vote.margin == pytest.approx(vote.share - (1 - vote.share))

    def test_a_vetoed_member_votes_but_does_not_stand(self) -> None:
        vote = take_vote(ASKED, [near("a", 0.95, group="g", vetoes=("number",)), near("b", 0.9, group="g")])
        assert vote is not None
        assert vote.choice.key == b"b"
        assert take_vote(ASKED, [near("a", 0.95, vetoes=("number",))]) is None
        assert take_vote(ASKED, []) is None

    def test_an_exchanged_name_votes_but_does_not_stand(self) -> None:
        exchanged = near("a", 0.97, hints=("entity", "substitution"))
        alone, beside = take_vote(ASKED, [exchanged]), take_vote(ASKED, [exchanged, near("b", 0.9, group="a")])
        assert alone is not None
        assert beside is not None
        assert not alone.stands
        assert beside.stands
        assert beside.choice.key == b"b"

    @pytest.mark.parametrize("hint", ["substitution", "entity", "quoted"])
    def test_an_exchanged_word_needs_witnesses_that_the_answer_does_not_hang_on_it(self, hint: str) -> None:
        stored = near("a", 0.97, group="g", text="how do I cook lentils", hints=(hint,))
        with_the_word = [near(f"w{at}", 0.9, group="g", text=f"cooking lentils {at}") for at in range(3)]
        without = [near(f"o{at}", 0.9, group="g", text="how do I cook pulses", vetoes=("number",)) for at in range(2)]
        vetoed = [near(one.key.decode(), 0.9, group="g", text=one.text, vetoes=("number",)) for one in with_the_word]
        for others, stands in (([], False), (vetoed, False), (without[:1], False), (without, True)):
            vote = take_vote(ASKED, [stored, *others])
            assert vote is not None
            assert vote.choice.key == b"a"
            assert vote.stands == stands

    def test_another_member_stands_where_the_nearest_may_not(self) -> None:
        stored = near("a", 0.97, group="g", text="how do I cook lentils", hints=("substitution",))
        vote = take_vote(ASKED, [stored, near("b", 0.9, group="g", text="cooking rice")])
        assert vote is not None
        assert vote.choice.key == b"b"

    def test_a_row_has_the_named_columns_and_is_finite(self) -> None:
        neighbours = [near("a", 1.0), near("b", -0.3, text="")]
        vote = take_vote(ASKED, neighbours)
        assert vote is not None
        row = feature_row("", neighbours, vote, lambda _: 0.5, lambda _: 0.0)
        assert len(row) == len(FEATURES)
        assert np.isfinite(row).all()


class TestMathematics:
    def test_gamma_quantile_against_samples(self) -> None:
        sample = np.random.default_rng(0).gamma(9.0, 1 / 3.0, 200_000)
        assert gamma_quantile(9.0, 3.0, 0.8416) == pytest.approx(np.quantile(sample, 0.8), rel=0.01)

    def test_acceptance_level(self) -> None:
        errors = np.array([0.5, 0.001, 0.002, 0.1])
        assert acceptance_level(errors, 100, 0.00005, 1.0) == pytest.approx(0.002)
        assert acceptance_level(errors, 100, 0.00005, 2.0) == pytest.approx(0.001)
        assert acceptance_level(errors, 100, 0.000001, 1.0) < 0
        assert acceptance_level(errors, 100, 1.0, 1.0) == pytest.approx(0.5)
        assert acceptance_level(np.array([]), 100, 1.0, 1.0) < 0

    def test_evidence_that_the_model_promises_too_much_lowers_the_level(self) -> None:
        errors = np.full(1000, 0.01)
        as_predicted = Evidence.of(errors, (np.arange(1000) % 100 == 0).astype(float), np.ones(1000))
        worse = Evidence.of(errors, (np.arange(1000) % 25 == 0).astype(float), np.ones(1000))
        assert as_predicted.support == 990
        assert float(as_predicted.drift(np.array([0.01]))[0]) == pytest.approx(1.0)
        assert float(worse.drift(np.array([0.01]))[0]) == pytest.approx(43 / 13)
        assert float(worse.drift(np.array([0.001]))[0]) == 1.0  # no rows there: nothing is known
        cases = np.linspace(0.0, 0.02, 200)
        levels = [acceptance_level(cases, 1000, 0.001, 1.0, evidence) for evidence in (None, as_predicted, worse)]
        assert levels[0] == pytest.approx(levels[1], abs=2e-4)
        assert levels[2] < levels[1]

    @pytest.mark.parametrize("share", [0.0, 0.06])
    def test_what_looks_sure_and_is_wrong_is_learned_as_a_share(self, share: float) -> None:
        dice = np.random.default_rng(2)
        rows = dice.normal(size=(6000, 2))
        truth = dice.random(6000) < 1 / (1 + np.exp(-4 * rows[:, 0]))
        same = np.where(dice.random(6000) < share, False, truth).astype(float)
        fit = learn(rows, same, np.ones(6000), noise=(0.0, 0.0), ridge=5.0, start=None)
        for _ in range(3):  # as the policy does: each fit starts from the one before
            assert fit is not None
            fit = learn(rows, same, np.ones(6000), noise=(0.0, 0.0), ridge=5.0, start=fit.model)
        assert fit is not None
        assert fit.model.outliers == pytest.approx(share, abs=0.02)
        sure = rows[:, 0] > 2.0
        assert float(1 - fit.model.probability(rows[sure]).mean()) == pytest.approx(1 - same[sure].mean(), abs=0.02)

    def test_logistic_finds_the_slope_and_noise_modelling_restores_it(self) -> None:
        dice = np.random.default_rng(1)
        rows = dice.normal(size=(20_000, 1))
        same = (dice.random(20_000) < 1 / (1 + np.exp(-3 * rows[:, 0]))).astype(float)
        flipped = np.where(dice.random(20_000) < 0.05, 1 - same, same)
        weights = np.ones(20_000)

        def slope(labels: np.ndarray, noise: tuple[float, float]) -> float:
            model = fit_logistic(rows, labels, weights, noise=noise, rounds=60)
            return float(model.coefficients[1] / model.scale[0])

        assert slope(same, (0.0, 0.0)) == pytest.approx(3.0, rel=0.05)
        assert slope(flipped, (0.0, 0.0)) < 2.6
        assert slope(flipped, (0.05, 0.05)) == pytest.approx(3.0, rel=0.08)

    def test_judge_noise(self) -> None:
        noise = JudgeNoise()
        for at in range(1000):
            noise.probe(True, at % 20 != 0)
            noise.probe(False, False)
        assert noise.rates[1] == pytest.approx(0.05, abs=0.01)
        assert noise.rates[0] < 0.002
        assert noise.wrong_given(False, 0.001) < 0.05 < 0.5 < noise.wrong_given(False, 0.2)

    def test_audits_move_the_drift_and_bound_the_error(self) -> None:
        tally = AuditTally(fade=1.0)
        for at in range(1000):
            tally.add(float(at % 50 == 0), 0.01, 30.0)  # twice the predicted wrongs
        assert 1.2 < tally.drift(20.0) < 2.0
        assert tally.drift_upper(20.0) > tally.drift(20.0)
        error, upper = tally.error_among_hits()
        assert error == pytest.approx(0.02)
        assert 0.02 < upper < 0.04

    def test_ledger_allows_catching_up_and_brakes_after_excess(self) -> None:
        ledger = ErrorLedger(1000)
        for _ in range(500):
            ledger.request()
        assert ledger.allowance(0.01, 1000, 1.3) == pytest.approx(1.3)
        for _ in range(20):
            ledger.reuse(1.0)
        assert ledger.allowance(0.01, 1000, 1.3) == pytest.approx(0.5)

    def test_term_counts_are_bounded(self) -> None:
        terms = TermCounts(100)
        for at in range(1000):
            terms.add(["common", f"word{at}"])
        assert len(terms) <= 101
        assert terms.rarity("common") < 0.2 < terms.rarity("never")


TOPICS = ("bread", "rice", "tea", "wine", "soup", "fish", "cake", "corn", "milk", "salt", "jam", "oil", "nuts", "plum")


def question(dice: random.Random) -> tuple[str, int]:
    topic = dice.randrange(len(TOPICS))
    return f"how do I {dice.choice(['make', 'keep', 'store', 'buy'])} {TOPICS[topic]} {dice.randrange(10**6)}", topic


def ask(policy: BoundedPolicy, dice: random.Random, noise: float = 0.0) -> tuple[str, bool]:
    """A made-up world: far neighbours are wrong more often, and the policy must find out how much."""
    text, _ = question(dice)
    similarity = dice.uniform(0.5, 1.0)
    right = dice.random() < 1 / (1 + np.exp(-30 * (similarity - 0.8)))
    other = near("x", similarity - dice.uniform(0.0, 0.3), text=question(dice)[0])
    decision = policy.decide(
        text, [near(str(dice.randrange(500)), similarity, text=question(dice)[0]), other], dice.random()
    )
    truth = right if decision.choice is not None and decision.choice.key != b"x" else dice.random() < 0.02
    if decision.action != "reuse":
        policy.observe(decision, truth != (dice.random() < noise))
        policy.stored(text)
    if policy.refit_due():
        policy.refit()
    return decision.action, truth


def realised(policy: BoundedPolicy, requests: int, seed: int, noise: float = 0.0) -> tuple[float, float]:
    dice = random.Random(seed)
    outcomes = [ask(policy, dice, noise) for _ in range(requests)]
    hits = sum(action == "reuse" for action, _ in outcomes)
    wrong = sum(action == "reuse" and not truth for action, truth in outcomes)
    return hits / requests, wrong / requests


class TestBounded:
    @pytest.mark.parametrize("seed", range(2))
    def test_keeps_the_bound_and_hits(self, seed: int) -> None:
        policy = BoundedPolicy(BoundedParameters(max_error=0.02, label_window=2500, refit_every=500))
        hits, wrong = realised(policy, 5000, seed)
        assert wrong <= 0.02 * 1.25
        assert hits > 0.2
        report = policy.report()
        assert report["audited_error"] <= report["audited_error_upper_95"]
        assert report["expected_error"] <= 0.025

    def test_keeps_the_bound_with_a_judge_that_errs(self) -> None:
        policy = BoundedPolicy(BoundedParameters(max_error=0.02, label_window=2500, refit_every=500))
        for at in range(500):
            policy.probe(True, at % 20 != 0)
            policy.probe(False, at % 20 == 0)
        hits, wrong = realised(policy, 5000, 5, noise=0.05)
        assert wrong <= 0.02 * 1.25
        assert hits > 0.2

    def test_starts_strict(self) -> None:
        policy = BoundedPolicy()
        assert policy.decide("how do I make tea", [near("a", 0.99)], 0.9).action == "miss"
        assert policy.decide("how do I make tea", [near("a", 0.999, hints=("entity",))], 0.9).action == "miss"
        assert policy.decide("how do I make tea", [near("a", 0.999)], 0.9).action == "reuse"

    def test_an_exchanged_word_is_not_reused_but_compared(self) -> None:
        policy = BoundedPolicy()
        realised(policy, 3000, 8)
        neighbour = near("a", 0.999, text="how do I cook lentils", hints=("substitution",))
        decision = policy.decide(ASKED, [neighbour], 0.9)
        assert (decision.action, decision.reason, decision.choice) == ("miss", "exchanged", neighbour)
        assert policy.preview(ASKED, [neighbour]) is None
        before = policy.report()["labels"]
        policy.observe(decision, True)
        assert policy.report()["labels"] == before

    def test_a_world_that_turns_bad_is_noticed(self) -> None:
        policy = BoundedPolicy(
            BoundedParameters(max_error=0.02, label_window=2000, request_window=2000, refit_every=500)
        )
        realised(policy, 5000, 1)
        dice = random.Random(2)
        wrong = []
        for _ in range(8000):
            text, _topic = question(dice)
            decision = policy.decide(text, [near(str(dice.randrange(500)), dice.uniform(0.5, 1.0))], dice.random())
            if decision.action != "reuse":
                policy.observe(decision, False)
            wrong.append(decision.action == "reuse")
            if policy.refit_due():
                policy.refit()
        assert np.mean(wrong[-3000:]) <= 0.02 * 1.25

    def test_state_round_trip(self) -> None:
        policy, restarted = BoundedPolicy(), BoundedPolicy()
        realised(policy, 1500, 3)
        state = policy.dump()
        assert restarted.load(state)
        assert restarted.report()["labels"] == policy.report()["labels"]
        assert restarted.report()["fitted"]
        assert restarted.report()["acceptance_level"] == policy.report()["acceptance_level"]
        assert b"how do I" not in state
        for damaged in (b"", b"\xc1", state[:-7], state.replace(b"version\x01", b"version\x02")):
            assert not BoundedPolicy().load(damaged)

    def test_absorbing_a_peer_teaches_and_repeating_does_no_harm(self) -> None:
        teacher, pupil = BoundedPolicy(), BoundedPolicy()
        realised(teacher, 3000, 4)
        for _ in range(3):
            assert pupil.absorb("p1", teacher.dump())
        assert pupil.report()["peer_labels"] == teacher.report()["labels"]
        assert not pupil.absorb("p2", b"nonsense")
        assert pupil.report()["labels"] == 0

    def test_feedback_lowers_an_entry(self) -> None:
        policy = BoundedPolicy()
        realised(policy, 4000, 6)
        before = policy.decide("how do I make tea", [near("7", 0.9)], 0.99).error
        policy.feedback(b"7", b"7")
        after = policy.decide("how do I make tea", [near("7", 0.9)], 0.99).error
        assert before is not None
        assert after is not None
        assert policy._record(b"7") < 0

    def test_memory_is_bounded(self) -> None:
        parameters = BoundedParameters(label_window=50, request_window=50, max_records=20, max_terms=50)
        policy = BoundedPolicy(parameters)
        realised(policy, 500, 7)
        assert len(policy._labels) <= 50
        assert len(policy._cases) <= 50
        assert len(policy._records) <= 21


def neighbours_of(count: int) -> Sequence[Neighbour]:
    return [near(str(at), 1.0 - at / 20) for at in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 8, 30])
def test_any_number_of_neighbours(count: int) -> None:
    for policy in (ThresholdPolicy(), BoundedPolicy()):
        decision = policy.decide("how do I make tea", neighbours_of(count), 0.5)
        assert (decision.choice is None) == (count == 0)


@pytest.mark.parametrize(("count", "similarity", "action"), [(1, 0.5, "miss"), (7, 0.5, "miss"), (1, 0.999, "reuse")])
def test_one_answer_alone_in_an_index_is_no_agreement(count: int, similarity: float, action: str) -> None:
    """A partition with a question or two: whatever was learned elsewhere, unlike questions do not get its answer."""
    policy = BoundedPolicy()
    width = len(FEATURES)
    policy._model = LogisticModel(np.zeros(width), np.ones(width), np.array([20.0] + [0.0] * width))  # sure of anything
    policy._level = 0.5
    alone = [Neighbour(bytes([each]), b"g", "how do I bake bread", similarity) for each in range(count)]
    assert policy.decide("baking bread, how?", alone, 0.999).action == action
    assert (policy.preview("baking bread, how?", alone) is not None) == (action == "reuse")
    other = Neighbour(b"o", b"o", "who wrote Hamlet", similarity - 0.3)
    assert policy.decide("baking bread, how?", [*alone, other], 0.999).action == "reuse"


class TestTheSameWords:
    """Traffic that hardly has such pairs teaches nothing of them, and a model guesses far off its rows."""

    @pytest.fixture
    def doubtful(self) -> BoundedPolicy:
        """A policy whose model takes everything for different."""
        policy = BoundedPolicy()
        width = len(FEATURES)
        policy._model = LogisticModel(np.zeros(width), np.ones(width), np.array([-9.0] + [0.0] * width))
        policy._level = 0.1
        return policy

    @pytest.mark.parametrize(
        ("asked", "stored"),
        [
            ("how do i cook rice", "How do I cook rice?"),
            ("Hi, please tell me: how do I cook rice? Thanks!", "How do I cook rice?"),
            ("what's the best rice", "What is the best rice?"),
            ("how do I cook 3 eggs", "how do I cook three eggs"),
            ("请问怎么煮饭？谢谢", "怎么煮饭"),
        ],
    )
    def test_are_reused_whatever_the_model_guesses(self, doubtful: BoundedPolicy, asked: str, stored: str) -> None:
        other = near("o", 0.1, text="who wrote Hamlet")
        decision = doubtful.decide(asked, [near("a", 0.97, text=stored), other], 0.9)
        assert decision.action == "reuse"
        assert decision.error is not None
        assert decision.error < 0.01

    @pytest.mark.parametrize(
        ("asked", "stored", "more"),
        [
            ("how do I cook rice", "rice, how do I cook it", {}),
            ("how do I cook rice", "how do I cook rice", {"hints": ("entity",)}),
            ("what is 5*3", "what is 5/3", {"vetoes": ("symbol",)}),
            ("!!!", "???", {}),
        ],
    )
    def test_others_are_the_models(
        self, doubtful: BoundedPolicy, asked: str, stored: str, more: dict[str, tuple[str, ...]]
    ) -> None:
        other = near("o", 0.1, text="who wrote Hamlet")
        assert doubtful.decide(asked, [near("a", 0.999, text=stored, **more), other], 0.9).action == "miss"

    def test_are_booked_at_what_the_judge_says_of_them(self) -> None:
        """Where labels call one in ten of them different, that is what a reuse costs the bound."""
        policy, dice = BoundedPolicy(), random.Random(4)
        other = near("o", 0.1, text="who wrote Hamlet")
        for number in range(600):
            doubted = number % 2
            hints = ("wording",) if doubted else ()
            asked = f"how do I cook rice {number}"
            neighbours = [near(str(number), 0.97, text=f"{asked} well" if doubted else asked, hints=hints), other]
            policy.observe(policy.decide(asked, neighbours, 0.0), dice.random() > (0.4 if doubted else 0.1))
            if policy.refit_due():
                policy.refit()
        policy.refit()
        assert 0.05 < policy._verbatim_error < 0.15
        decision = policy.decide(ASKED, [near("a", 0.97, text=ASKED), other], 0.9)
        assert decision.error is not None
        assert decision.error < 0.2

    def test_nothing_is_reused_once_audits_call_them_wrong(self, doubtful: BoundedPolicy) -> None:
        doubtful._level = -1.0
        other = near("o", 0.1, text="who wrote Hamlet")
        assert doubtful.decide(ASKED, [near("a", 1.0, text=ASKED), other], 0.9).action == "miss"
