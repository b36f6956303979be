"""The settings of the NLP hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from vllm_enhance.settings import Setting

__all__ = ["SETTINGS", "ContextOptions", "NLPOptions"]

SECTION = "Language analysis"
CONTEXT_SECTION = "Context enrichment"


def _check_template(path: str) -> None:
    from .context import read_template

    read_template(path)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="nlp",
        kind="switch",
        default="off",
        section=SECTION,
        help="Read each question beside its generation: connectives, clauses, sub-questions, numbers, negation. The "
        "result is in the answer's metadata and open to other hooks.",
    ),
    Setting(
        name="nlp-max-concurrent-tasks",
        kind="int",
        default="50",
        minimum=1,
        maximum=10_000,
        section=SECTION,
        help="Questions being read or waiting to be, in one API server process. More are not read, and counted.",
    ),
    Setting(
        name="nlp-deadline",
        kind="duration",
        default="1s",
        minimum=0.001,
        maximum=60,
        section=SECTION,
        help="How long after its arrival a question may still be read; a result that comes later is thrown away.",
    ),
    Setting(
        name="nlp-max-characters",
        kind="int",
        default="20000",
        minimum=1,
        maximum=1_000_000,
        section=SECTION,
        help="How much of a question is read. A longer one is cut, and the result says so.",
    ),
    Setting(
        name="nlp-language",
        kind="text",
        default="auto",
        choices=("auto", "en", "zh"),
        section=SECTION,
        help="The language of questions, or auto to see from each.",
    ),
    Setting(
        name="nlp-threads",
        kind="int",
        default="1",
        minimum=1,
        maximum=16,
        section=SECTION,
        help="Threads that read questions in one API server process.",
    ),
    Setting(
        name="context",
        kind="switch",
        default="off",
        section=CONTEXT_SECTION,
        help="Put stored answers to the parts of a compound question into its prompt, marked as reference. Needs "
        "similarity. The answer is kept as the answer to the question as it was asked.",
    ),
    Setting(
        name="compose",
        kind="switch",
        default="off",
        section=CONTEXT_SECTION,
        help="Answer a compound question from stored answers, without generating, when each of its parts has one that "
        "similarity would reuse.",
    ),
    Setting(
        name="context-max-tokens",
        kind="int",
        default="512",
        minimum=16,
        maximum=1_000_000,
        section=CONTEXT_SECTION,
        help="Length of the reference text, in tokens of the served model. Less where the model's context is short.",
    ),
    Setting(
        name="context-max-results",
        kind="int",
        default="3",
        minimum=1,
        maximum=16,
        section=CONTEXT_SECTION,
        help="Stored questions looked at for each part of a question.",
    ),
    Setting(
        name="context-min-similarity",
        kind="float",
        default="0.75",
        minimum=-1,
        maximum=1,
        section=CONTEXT_SECTION,
        help="Least cosine similarity of a stored question that serves as reference.",
    ),
    Setting(
        name="context-template",
        kind="text",
        default="",
        section=CONTEXT_SECTION,
        help="JSON file with frame and item: how the reference text reads. Unset uses the built-in one.",
        check=lambda path: _check_template(path) if path else None,
    ),
)


@dataclass(frozen=True, slots=True)
class NLPOptions:
    """Parsed settings; `language` None means to detect it, `deadline` is in seconds."""

    enabled: bool = False
    max_concurrent_tasks: int = 50
    deadline: float = 1.0
    max_characters: int = 20_000
    language: Literal["en", "zh"] | None = None
    threads: int = 1

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> NLPOptions:
        """Options as `declare_settings` names them."""
        chosen = settings["nlp-language"]
        return cls(
            enabled=settings["nlp"],
            max_concurrent_tasks=settings["nlp-max-concurrent-tasks"],
            deadline=settings["nlp-deadline"],
            max_characters=settings["nlp-max-characters"],
            language=None if chosen == "auto" else cast(Literal["en", "zh"], chosen),
            threads=settings["nlp-threads"],
        )


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """Parsed settings of context enrichment; `min_similarity` is a cosine in [-1, 1], `template` a path or empty."""

    references: bool = False
    compose: bool = False
    max_tokens: int = 512
    max_results: int = 3
    min_similarity: float = 0.75
    template: str = ""

    @property
    def enabled(self) -> bool:
        return self.references or self.compose

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> ContextOptions:
        """Options as `declare_settings` names them."""
        return cls(
            references=settings["context"],
            compose=settings["compose"],
            max_tokens=settings["context-max-tokens"],
            max_results=settings["context-max-results"],
            min_similarity=settings["context-min-similarity"],
            template=settings["context-template"],
        )
