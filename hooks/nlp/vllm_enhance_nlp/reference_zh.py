"""What 它, 他们, 其 or a dropped subject stand for in a follow-up question, where that is safe to say.

The first question names a topic ("什么是X", "X是什么", "X怎么…", "谁发明了X", "怎么安装X"); a later clause of the same
text takes it up with a pronoun, or with nothing at all when it
opens with a predicate or a relational noun (人口, 价格).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from . import lexicon_zh as zh

__all__ = ["Topic", "resume", "topic_of"]

_MAX_TOPIC: Final = 24
_ASKS: Final = "什么|怎么|怎样|如何|为什么|为何|谁|哪|几|多少|多[久长大高远快重深宽]"
_DEFINITION: Final = re.compile(
    "^(?:请问|请解释一?下?|解释一?下?|请介绍一?下?|介绍一?下?)?(?:什么是|什么叫|何为|何谓|谁是)(.+)$"
)
# The subject ends where its predicate begins. Markers are tried at every place, so the earliest wins.
_SUBJECT: Final = re.compile(
    "^(?:请问)?(.{1,24}?)(?:是什么|是谁|是哪|是怎么|是如何|是不是|是否|是啥|怎么|怎样|如何|为什么|为何|有什么|有哪些|有几|有多|在哪|"
    "位于哪|会不会|能不能|可不可以|可以|应该|需要|多[久长大高远快重深宽]|(?<![智功性可只才节])能(?!源|力)|会|几年|一共|共有|属于|什么时候|何时|从几|从哪|从什么|丢了|是.{1,12}吗)"
)
_OBJECT_QUESTION: Final = re.compile("^(?:请问)?谁.{1,3}?了?(《[^》]{1,22}》|(?<=了).{1,24})$")
_VERB_PHRASE: Final = re.compile(
    "^(请问)?(?:我)?(?:应该|该|要|想)?(?:怎么|怎样|如何|怎么样)(?:才能|去|来|能|可以)?(.{2,24})$"
)
_VERBS: Final = "|".join(map(re.escape, zh.VERBS))
_VERB_OBJECT: Final = re.compile(f"(?:用.{{1,12}}?)?(?:{_VERBS})(?:一[个份张台本条]|这[个份张台本条])?(.+)$")
_PRONOUN: Final = re.compile("它们|他们|她们|它|他|她")
_NOT_PRONOUN_AFTER: Final = re.compile("的?确")
_PLURAL_TOPIC: Final = re.compile("和|与|及|、|们")
_OWN_SUBJECT_FREE: Final = re.compile(
    "^(?:是(?!否|不是)|有(?=什么|哪|几|多|何|没有什么)|属于|位于|在哪|会(?!员|议)|能(?!源|量|力)|可以|怎么(?!办)(?:样|用|做|写|读|来|形成|工作|收|交|算)|"
    "每(?:天|次|年|月|周)|最[多少]|为什么(?:会|能|要(?!用)|叫|是)|多[久长大高远快重深宽]$|什么时候(?:开|发|结|成|出))"
)
_EVENT: Final = re.compile("^(?:需要|需|要(?!是|么)|费用|流程|手续)")
_VERB_LIKE: Final = re.compile(f"^(?:{_VERBS}|改签|补办|办理|到|从)")
_RELATIONAL: Final = re.compile("^(?:" + "|".join(map(re.escape, zh.RELATIONAL_NOUNS)) + ")")
_WHY_RELATIONAL: Final = re.compile("^(为什么|为何)(" + "|".join(map(re.escape, zh.RELATIONAL_NOUNS)) + ")")
_SETTING: Final = re.compile("^[^什怎谁哪几，]{2,20}?(?:的时候|之前|以前|之后|以后)")
_SHARED_SETTING: Final = re.compile("^(?:需要|要(?!是|么)|应该|可以|能(?!源|量|力)|会(?!员|议))")
_BAD_TOPIC: Final = re.compile(
    "^(?:不|没|都|也|还|是|我|你|您|我们|你们|他|她|它|这|那|大家|请问|如果|谁|什么|哪|怎么|如何|每|为什么|有没有|从|在|把|到)"
)
_PLACE_ONLY: Final = re.compile("[，。？！]")


class Topic(NamedTuple):
    """What a question is about: `noun` for pronouns and dropped subjects, `action` for 需要多久 and the like."""

    noun: str
    action: str
    setting: str  # a time clause in front ("肚子疼的时候"), which holds for what follows as well
    subject: bool  # the noun stood as the subject, so that a dropped subject can be it


def topic_of(question: str) -> Topic | None:
    """Topic of a question without its final mark, or None when no rule is sure."""
    setting = _SETTING.match(question)
    if setting is not None:
        return Topic("", "", setting.group(), subject=False)
    match = _DEFINITION.match(question)
    if match is not None:
        return _topic(match.group(1), subject=True)
    match = _VERB_PHRASE.match(question)
    if match is not None:
        action = match.group(2)
        found = _VERB_OBJECT.search(action)
        noun = found.group(1) if found is not None else ""
        return Topic(noun if len(noun) <= _MAX_TOPIC else "", action, "", subject=False)
    match = _OBJECT_QUESTION.match(question)
    if match is not None:
        return _topic(match.group(1), subject=True)
    match = _SUBJECT.match(question)
    if match is not None:
        return _topic(match.group(1), subject=True)
    if question.endswith("吗"):
        found = re.match("^(.{1,12}?)是", question)
        return _topic(found.group(1), subject=True) if found is not None else None
    return None


def _topic(noun: str, *, subject: bool) -> Topic | None:
    noun = noun.strip()
    if not noun or len(noun) > _MAX_TOPIC or _PLACE_ONLY.search(noun) or _BAD_TOPIC.match(noun):
        return None
    if re.search(_ASKS, noun):
        return None
    return Topic(noun, "", "", subject)


def resume(clause: str, topic: Topic) -> str | None:
    """`clause` with the pronoun or dropped subject put back, or None when nothing is missing or sure."""
    pronoun = _PRONOUN.search(clause)
    if pronoun is not None:
        return _replace_pronoun(clause, pronoun, topic)
    if topic.setting and _SHARED_SETTING.match(clause):
        return topic.setting + clause
    if topic.action and _EVENT.match(clause):
        return topic.action + clause
    if not topic.subject or (topic.noun in clause):
        return None
    why = _WHY_RELATIONAL.match(clause)
    if why is not None:
        return f"{why.group(1)}{topic.noun}{clause[why.end(1) :]}"
    if _RELATIONAL.match(clause) or _OWN_SUBJECT_FREE.match(clause) or _VERB_LIKE.match(clause):
        return topic.noun + clause
    return None


def _replace_pronoun(clause: str, pronoun: re.Match[str], topic: Topic) -> str | None:
    word = pronoun.group()
    before = clause[: pronoun.start()]
    if not topic.noun or (word.endswith("们") and not _PLURAL_TOPIC.search(topic.noun)) or before.endswith("其"):
        return None
    return before + topic.noun + clause[pronoun.end() :]
