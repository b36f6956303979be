"""The settings of the NLP hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from vllm_enhance.settings import Setting

__all__ = ["SETTINGS", "NLPOptions"]

SECTION = "Language analysis"

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
