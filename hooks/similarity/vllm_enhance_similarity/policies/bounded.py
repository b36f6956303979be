"""Reuse with a bounded error: one pooled model, learned online, and an acceptance level that corrects itself.

After vCache (arXiv 2502.03771), which learns a threshold for each entry; here all entries share one small logistic
model over the neighbours' vote, the pair's words and the entry's record, so that an entry may be reused before it has
a history. Labels are free: whenever an answer is generated, it is compared with the one that would have been reused. A
small share of would-be hits is generated all the same; these audits, weighted by the inverse of their share, keep the
estimate of the realised error honest.

The bound is on wrong reuses per request over a rolling window: the share that an operator sees on the traffic.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from vllm_enhance_similarity.guards.facts import read_facts
from vllm_enhance_similarity.policies.acceptance import AuditTally, acceptance_level
from vllm_enhance_similarity.policies.base import PolicyDecision
from vllm_enhance_similarity.policies.features import FEATURES, feature_row, take_vote
from vllm_enhance_similarity.policies.learner import learn
from vllm_enhance_similarity.policies.ledger import ErrorLedger
from vllm_enhance_similarity.policies.noise import JudgeNoise
from vllm_enhance_similarity.policies.state import Label, PolicyState, decode_state, encode_state
from vllm_enhance_similarity.policies.terms import TermCounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from vllm_enhance_similarity.policies.base import Neighbour
    from vllm_enhance_similarity.policies.features import Vote
    from vllm_enhance_similarity.policies.learner import Fit
    from vllm_enhance_similarity.policies.logistic import LogisticModel

__all__ = ["BoundedParameters", "BoundedPolicy"]

_COLD_ERROR = 0.02  # what a reuse before the first fit is booked at
_VERBATIM_ERROR, _VERBATIM_SEEN = 0.005, 40.0  # what the same words are booked at before any was judged, and its worth
_HINTS = [column for column, name in enumerate(FEATURES) if name.startswith("hint_")]
_MAX_PEERS = 64


class BoundedParameters(msgspec.Struct, frozen=True):
    """Parameters of BoundedPolicy. Only `max_error` is meant for operators; the rest held on all data tried.

    Attributes:
        max_error: tolerated wrong reuses per request.
        aim: share of the bound that is aimed at; the rest is for what estimates miss.
        audit_share: mean share of would-be hits that is generated all the same at a bound of 1%; less above, where
            each audit finds more. Doubtful ones are audited more often.
        first_audits: audits (at a bound of 1%) until which that share is larger, up to a fifth: where few questions are
            reused, the surest of them would otherwise hardly ever be checked.
        cold_similarity: what a reuse needs before the first fit, besides no hint from any guard.
        min_labels: verdicts before the first fit.
        ramp: "same" verdicts after which half of the bound may be spent; with n of them n / (n + ramp) of it.
        label_window: verdicts kept for fitting.
        request_window: recent requests over which the acceptance level is set.
        ledger_window: requests over which the bound is accounted.
        catch_up: at most this multiple of the bound is spent to use up what strict times left.
        catch_up_over: requests over which that is spread.
        refit_every: verdicts between fits; fewer while there are few, a quarter of those there are.
        ridge: penalty of the fit.
        audit_prior: predicted wrongs that the belief "the model is right about itself" is worth.
        audit_label_weight: cap on an audit's weight in the fit; in the tally its weight is whole.
    """

    max_error: float = 0.01
    aim: float = 0.94
    audit_share: float = 0.03
    first_audits: float = 200.0
    cold_similarity: float = 0.995
    min_labels: int = 100
    ramp: int = 150
    label_window: int = 8000
    request_window: int = 8000
    ledger_window: int = 20_000
    catch_up: float = 1.3
    catch_up_over: int = 4000
    refit_every: int = 250
    ridge: float = 5.0
    audit_prior: float = 20.0
    audit_label_weight: float = 4.0
    max_terms: int = 200_000
    max_records: int = 100_000


class BoundedPolicy:
    """See the module. `decide`, `observe` and `stored` from one thread; `refit` from any one other."""

    name = "bounded"

    def __init__(self, parameters: BoundedParameters | None = None) -> None:
        self.parameters = parameters or BoundedParameters()
        self.noise = JudgeNoise()
        self._lock = threading.Lock()
        self._model: LogisticModel | None = None
        self._level = -1.0
        self._evident_drift = 1.0
        self._verbatim_error = _VERBATIM_ERROR
        self._labels: deque[Label] = deque(maxlen=self.parameters.label_window)
        self._cases: deque[tuple[float, ...] | None] = deque(maxlen=self.parameters.request_window)
        self._new_labels = 0
        self._tally = AuditTally()
        self._ledger = ErrorLedger(self.parameters.ledger_window)
        self._terms = TermCounts(self.parameters.max_terms)
        self._records: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._peers: OrderedDict[str, PolicyState] = OrderedDict()
        self._typical_doubt = 0.1

    @property
    def learns(self) -> bool:
        return True

    def decide(self, text: str, neighbours: Sequence[Neighbour], draw: float) -> PolicyDecision:
        """See DecisionPolicy. About 0.05 ms."""
        vote, features = self._described(text, neighbours)
        with self._lock:
            self._ledger.request()
            self._cases.append(features)
            model, level = self._model, self._level
        if vote is None:
            return PolicyDecision("miss", "guard" if neighbours else "no_neighbour")
        if features is None:  # the verdict joins the answers or keeps them apart; the model has no use for it
            return PolicyDecision("miss", "exchanged", vote.choice)
        error, accepted = self._weighed(vote, features, model, level)
        if not accepted:
            reason = "learning" if model is None else "uncertain"
            return PolicyDecision("miss", reason, vote.choice, error, level, 1.0, features)
        share = self._audit_share(error)
        if draw < share:
            return PolicyDecision("audit", "audit", vote.choice, error, level, 1.0 / share, features)
        with self._lock:
            drift = max(self._evident_drift, self._tally.drift(self.parameters.audit_prior))
            self._ledger.reuse(min(1.0, error * drift))
        return PolicyDecision("reuse", "accepted", vote.choice, error, level, 1.0, features)

    def preview(self, text: str, neighbours: Sequence[Neighbour]) -> Neighbour | None:
        """See DecisionPolicy."""
        vote, features = self._described(text, neighbours)
        with self._lock:
            model, level = self._model, self._level
        if vote is None or features is None or not self._weighed(vote, features, model, level)[1]:
            return None
        return vote.choice

    def observe(self, decision: PolicyDecision, same: bool) -> None:
        """See DecisionPolicy."""
        if decision.choice is None or not decision.features or decision.error is None:
            return
        # An audit stands for all cases of its kind. A reuse that was generated all the same (shadow mode, a lost race)
        # stands for itself: whether it was labelled had nothing to do with a draw.
        inverse_share = decision.weight if decision.action == "audit" else 1.0
        weight = min(inverse_share, self.parameters.audit_label_weight)
        with self._lock:
            if decision.action != "miss":
                wrong = self.noise.wrong_given(same, decision.error)
                self._tally.add(wrong, decision.error, inverse_share)
            self._labels.append(Label(decision.features, bool(same), weight))
            self._new_labels += 1
        for key in {decision.choice.key, decision.choice.group}:
            self._note_record(key, right=int(same), wrong=int(not same))

    def probe(self, truly_same: bool, verdict: bool) -> None:
        """The judge's verdict on a pair whose truth is known; teaches how often the judge errs."""
        with self._lock:
            self.noise.probe(truly_same, verdict)

    def stored(self, text: str) -> None:
        """See DecisionPolicy."""
        self._terms.add(read_facts(text).bag)

    def feedback(self, key: bytes, group: bytes) -> None:
        """A user says this answer was wrong: worth several verdicts against the entry and its group."""
        self._note_record(key, right=0, wrong=4)
        if group != key:
            self._note_record(group, right=0, wrong=2)

    def refit_due(self) -> bool:
        """See DecisionPolicy."""
        every = min(self.parameters.refit_every, max(self.parameters.refit_every // 10, len(self._labels) // 4))
        return self._new_labels >= every and len(self._labels) >= self.parameters.min_labels

    def refit(self) -> None:
        """Fit the model, then set the level. About 0.1 s; blocks `decide` only to copy and swap."""
        with self._lock:
            labels = [*(label for peer in self._peers.values() for label in peer.labels), *self._labels]
            self._new_labels = 0
            noise, start = self.noise.rates, self._model
        if not labels:
            return
        rows = np.array([label.features for label in labels])
        same = np.array([float(label.same) for label in labels])
        weights = np.array([label.weight for label in labels])
        self._verbatim_error = _verbatim_error(rows, same, weights)
        fit = learn(
            rows,
            same,
            weights,
            noise=noise,
            ridge=self.parameters.ridge,
            start=start,
        )
        if fit is not None:
            level = self._level_for(fit)
            evident = float(fit.evidence.drift(np.array([level]))[0])
            with self._lock:
                self._model, self._level, self._evident_drift = fit.model, level, evident

    def report(self) -> Mapping[str, Any]:
        """See DecisionPolicy. Error rates are per request over the ledger's window unless they say otherwise."""
        with self._lock:
            tally, ledger, rates = self._pooled_tally(), self._ledger, self.noise.rates
            audited, audited_upper = tally.error_among_hits()
            hit_share = ledger.reuses / ledger.requests if ledger.requests else 0.0
            return {
                "policy": self.name,
                "max_error": self.parameters.max_error,
                "fitted": self._model is not None,
                "acceptance_level": self._level,
                "labels": len(self._labels),
                "peer_labels": sum(len(peer.labels) for peer in self._peers.values()),
                "audits": round(tally.audits),
                "hit_share": hit_share,
                "expected_error": ledger.wrong / ledger.requests if ledger.requests else 0.0,
                "audited_error": audited * hit_share,
                "audited_error_upper_95": audited_upper * hit_share,
                "audited_error_among_hits": audited,
                "drift": tally.drift(self.parameters.audit_prior),
                "judge_says_same_of_different": rates[0],
                "judge_says_different_of_same": rates[1],
            }

    def dump(self) -> bytes:
        """See DecisionPolicy. A few MB at most; holds no text."""
        with self._lock:
            documents, counts = self._terms.dump()
            return encode_state(
                PolicyState(
                    labels=list(self._labels),
                    tally=self._tally,
                    ledger=self._ledger,
                    noise=self.noise,
                    records=dict(self._records),
                    documents=documents,
                    terms=counts,
                    level=self._level,
                )
            )

    def load(self, state: bytes) -> bool:
        """See DecisionPolicy. The model is fitted again from the labels."""
        loaded = decode_state(state)
        if loaded is None:
            return False
        with self._lock:
            self._labels = deque(loaded.labels, maxlen=self.parameters.label_window)
            self._tally, self.noise = loaded.tally, loaded.noise
            self._ledger = msgspec.structs.replace(loaded.ledger, window=self.parameters.ledger_window)
            self._records = OrderedDict(loaded.records)
            self._terms.load(loaded.documents, loaded.terms)
        if len(self._labels) >= self.parameters.min_labels:
            self.refit()
        with self._lock:
            if not self._cases:  # nothing seen yet to set a level from: the one that held goes on
                self._level = loaded.level
        return True

    def absorb(self, peer: str, state: bytes) -> bool:
        """Learn from another process' state as well; its former one is replaced, so repeating does no harm.

        Labels and audits of all peers join the own ones in `refit`. False if the state is not usable.
        """
        loaded = decode_state(state)
        if loaded is None:
            return False
        with self._lock:
            self._peers[peer] = loaded
            self._peers.move_to_end(peer)
            while len(self._peers) > _MAX_PEERS:
                self._peers.popitem(last=False)
            self._new_labels += self.parameters.refit_every
        return True

    def _described(self, text: str, neighbours: Sequence[Neighbour]) -> tuple[Vote | None, tuple[float, ...] | None]:
        vote = take_vote(text, neighbours)
        if vote is None or not vote.stands:
            return vote, None
        return vote, feature_row(text, neighbours, vote, self._terms.rarity, self._record)

    def _weighed(
        self, vote: Vote, features: tuple[float, ...], model: LogisticModel | None, level: float
    ) -> tuple[float, bool]:
        """Estimated error of a reuse, and whether that is little enough."""
        if model is None or not vote.contested:  # a model knows nothing of votes without a choice
            return _COLD_ERROR, vote.verbatim or self._is_sure(vote)
        error = 1.0 - float(model.probability(np.array([features]))[0])
        if vote.verbatim:  # where traffic hardly has such pairs, the model guesses far off its rows
            error = min(error, max(self._verbatim_error, model.outliers))
        return error, error <= level

    def _is_sure(self, vote: Vote) -> bool:
        """Before the first fit, and where there is no vote: all but the same words, and nobody objects."""
        return vote.choice.similarity >= self.parameters.cold_similarity and not vote.choice.hints and vote.share > 0.5

    def _audit_share(self, error: float) -> float:
        """Audit the doubtful more often: for a given number of audits, shares proportional to the standard deviation
        of the outcome estimate the number of wrongs best (Neyman 1934)."""
        doubt = math.sqrt(error + 0.001)
        self._typical_doubt += (doubt - self._typical_doubt) * 0.01
        # Audits find wrongs in proportion to the bound, so a looser one needs fewer for the same relative precision.
        fewer = min(1.0, 0.01 / self.parameters.max_error)
        scarce = max(1.0, self.parameters.first_audits * fewer / max(1.0, self._tally.audits))
        mean = self.parameters.audit_share * fewer * scarce
        return min(0.2, max(mean / 4.0, mean * doubt / self._typical_doubt))

    def _level_for(self, fit: Fit) -> float:
        aim = self.parameters.aim * self.parameters.max_error
        with self._lock:
            requests = len(self._cases)
            cases = [case for case in self._cases if case is not None]
            drift = self._pooled_tally().drift_upper(self.parameters.audit_prior)
            allowance = self._ledger.allowance(aim, self.parameters.catch_up_over, self.parameters.catch_up)
        if not cases:
            return -1.0
        support = fit.evidence.support
        budget = aim * allowance * support / (support + self.parameters.ramp)
        return acceptance_level(1.0 - fit.model.probability(np.array(cases)), requests, budget, drift, fit.evidence)

    def _pooled_tally(self) -> AuditTally:
        return self._tally.pooled(peer.tally for peer in self._peers.values())

    def _record(self, key: bytes) -> float:
        right, wrong = self._records.get(key, (0, 0))
        return math.log((right + 1) / (wrong + 1))

    def _note_record(self, key: bytes, *, right: int, wrong: int) -> None:
        before = self._records.pop(key, (0, 0))
        self._records[key] = (before[0] + right, before[1] + wrong)
        while len(self._records) > self.parameters.max_records:
            self._records.popitem(last=False)


def _verbatim_error(rows: NDArray[np.float64], same: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Share of wrongs among the labels that no guard doubted: what the judge says of the same words, prior included."""
    undoubted = weights * (rows[:, _HINTS].sum(axis=1) == 0)
    wrong = float(undoubted @ (1.0 - same))
    return (_VERBATIM_ERROR * _VERBATIM_SEEN + wrong) / (_VERBATIM_SEEN + float(undoubted.sum()))
