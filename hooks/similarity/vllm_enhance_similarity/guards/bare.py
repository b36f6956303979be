"""A question without what people put around it: greetings, thanks, "could you tell me", "um", "quick question".

None of it changes the answer, but it moves an embedding and hides that two questions are the same. What stands in front
of a question, up to a comma, goes behind it: "On a Mac, how do I ...?" is "How do I ... on a Mac?".
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["READING", "bare"]

_WH = r"(?:what|which|who|whom|whose|when|where|why|how)(?:'s|'re|'d|'ll)?"
_AUXILIARY = r"(?:is|are|am|was|were|do|does|did|can|could|should|will|would|may|might|must|shall|has|have|had)(?:n't)?"
_PERSON = r"(?:i|you|we|they|he|she|it|there)"
_ASKS = rf"(?:{_WH}|{_AUXILIARY})\b"

# "Can you write ...?" asks for no yes; "can you freeze eggs?" does.
_TASKS = (
    r"(?:tell|show|teach|give|help|remind|walk) me|let me|explain|write|list|describe|recommend|suggest|translate|"
    r"summari[sz]e|create|make me|generate|draft|plan|find|name|define|compare|calculate|compute"
)

# Taken off in front of a comma or a full stop, and where somebody then asks: "hi how ...", but not "hello lyrics".
_GREETINGS = (
    r"(?:hi|hello|hey|hiya|greetings)(?: there| all| everyone| everybody| guys| team| again)?",
    r"good (?:morning|afternoon|evening|day)",
    r"dear (?:all|team|sir|madam|sir or madam|assistant)",
    r"(?:excuse|pardon) me",
    r"(?:i'?m |i am )?sorry(?: (?:to|for) (?:bother|disturb|troubl)(?:e|ing)?(?: you)?)?(?:,? but)?",
    r"(?:many )?(?:thanks|thank you|thx)(?: a lot| so much| very much| in advance)*(?: for (?:your|the|any) help)?",
    r"by the way|btw|to be honest",
)
# Taken off in front of what is asked for, but not in front of what makes a word of them: "please in Spanish".
_PLEAS = (
    r"please|kindly|pls|plz",
    r"(?:can|could|would|will) you (?:please|kindly)",
    rf"(?:can|could|would|will) you(?= (?:{_TASKS})\b)",
    r"(?:can|could|may) i(?: please| just)? ask(?: you)?",
    r"i(?:'d| would) (?:be (?:grateful|thankful|happy)|appreciate it) if you (?:could|would|can)",
    r"i(?:'m| am| was| am just|'m just| was just)? ?(?:wondering|wonder) if you (?:could|would|can)",
    r"tell me",
    r"i(?:'d| would) (?:like|love) to know|i (?:want|need|wish) to know",
)
# Taken off in front of a question only: "explain how tides work", but not "explain tides".
_REQUESTS = (
    r"(?:tell|show|teach|explain to) me|explain|let me know",
    r"i(?:'m| am) (?:curious|interested)",
    r"(?:(?:i'?m|i am|i was) )?(?:just )?(?:wondering|curious)|i (?:just )?wonder",
    r"do you (?:happen to )?know|any idea",
)
# The same in front of a comma or a question: "So, tides", "well how ...".
_FILLERS = (
    r"um+|uh+|er+m?|h+m+|mm+|ah+|oh+|so|well|ok|okay|yeah|alright|all right|right|now then|anyways?|basically|actually",
    r"honestly|seriously|like|look|see|listen|you know|i mean|alright then",
    r"(?:just )?(?:a |one )?(?:quick |random |small |short |simple )?(?:question|thing)",
    r"(?:a )?(?:quick|random|small) one",
)
_CLOSINGS = (
    r"cheers|thx|ty",
    r"(?:many )?(?:thanks|thank you)(?: a lot| a million| so much| very much| in advance| again)*"
    r"(?: for (?:your|the|any) help)?",
    r"i(?:'d| would)? (?:really )?appreciate (?:it|your help|any help)|(?:any help (?:is )?)?(?:much )?appreciated",
    r"you know|um+|uh+|anyway|actually|exactly|if (?:possible|you can|you don't mind)",
)

_END = r"(?=[\s,.!:;?…]|$)"
_STOP = r"(?:\s*[,.!:;…]|\s[–—-]\s)[\s,.!:;…–—-]*"
_GAP = r"[\s,.!:;…–—-]*"
_MAKES_A_WORD = r"(?!\s+(?:in|is|as|or|and|vs|versus|means?|meaning|of|from|to|lyrics|song|album|chords)\b)"


def _any(*phrases: str) -> str:
    return "(?:" + "|".join(phrases) + ")"


_ASKED = rf"(?:{_WH}\b|{_AUXILIARY} {_PERSON}\b)"
_NEXT = rf"(?:{_ASKED}|{_any(*_GREETINGS, *_PLEAS, *_REQUESTS, *_FILLERS)}{_END}{_MAKES_A_WORD})"
_OPENING = re.compile(
    rf"\s*(?:{_any(*_GREETINGS)}{_END}(?:{_STOP}|\s+(?=(?:i|we|my)\b|{_NEXT}))"
    rf"|{_any(*_FILLERS)}{_END}(?:{_STOP}|\s+(?={_NEXT}))"
    rf"|{_any(*_PLEAS)}{_END}{_MAKES_A_WORD}{_GAP}"
    rf"|{_any(*_REQUESTS)}{_END}{_GAP}(?={_WH}\b))",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"(?P<gap>^|[\s,.!:;?–—-]+)(?:(?P<plea>please|pls|plz|kindly)|{_any(*_CLOSINGS)})[\s.!?]*$", re.IGNORECASE
)
# "How do you say thank you?" What is named needs a sign in front, and enough words, to be taken for thanks.
_NAMES = re.compile(
    r"\b(?:say|says|said|saying|spell|write|writing|type|pronounce|translate|define|use|using|mean|means|word|words|phrase|term|"
    r"called|named|titled|song|is|are|was|does|did|of|to|for|by|with|and|or|than|as|like|in|a|an|the|not)$",
    re.IGNORECASE,
)
_LEAST_WORDS = 3
_LONGEST_CLOSING = 80
# "Tell me the capital of Peru" asks what it is; "tell me a joke" does not.
_TOLD = re.compile(r"(?:tell me|to know)[\s,:]*$", re.IGNORECASE)
_THING = re.compile(r"(?:the|my|your)\b", re.IGNORECASE)

_FRONT = (
    r"in|on|at|for|with|without|during|before|after|under|over|within|inside|by|from|to|using|according to|through|"
    r"throughout|between|while|if|since|as|because|given|last|this|next|when(?! (?:is|are|was|were|do|does|did|will|"
    r"would|should|can|could|has|have)\b)"
)
_FRONTED = re.compile(
    rf"(?P<front>(?:{_FRONT})\b(?:(?!\b{_WH}\b|\b{_AUXILIARY} {_PERSON}\b)[^,?!;:.\n]){{2,80}})"
    rf"(?:,\s*(?={_ASKS})|\s(?={_WH} (?:[\w-]+ ){{0,2}}{_AUXILIARY}\b))(?P<question>[^\n]*?)(?P<end>[\s?.!]*)$",
    re.IGNORECASE,
)

_OPENING_ZH = re.compile(
    r"[\s，。！!,]*(?:请问一下|请问|你好|您好|嗨|在吗[?？]?|麻烦(?:您|你)?(?:一下)?|劳驾|打扰(?:一下|了)?|不好意思|"
    r"我?想(?:请)?问(?:一下|下|问)?|请?(?:您|你)?(?:帮我|告诉我)|请(?!问))"
    r"(?![用的和跟与]|是(?!否|不是)|怎么[说读写念]|如何[说读写念]|[英日韩法德中][文语]|翻译|什么意思)[\s，,。！!：:]*"
)
_CLOSING_ZH = re.compile(
    r"[\s，,。！!？?]*(?:(?<![说写念读是叫答])(?:非常|十分)?(?:感谢|谢谢|多谢)(?:您|你|了|啦)?|[呢啊呀吧哦]|(?<![干为])嘛)[\s。！!？?]*$"
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_ROUNDS = 8

_PATTERNS = (_OPENING, _CLOSING, _NAMES, _FRONTED, _TOLD, _THING, _OPENING_ZH, _CLOSING_ZH)
READING = hashlib.blake2b("\n".join(one.pattern for one in _PATTERNS).encode(), digest_size=4).hexdigest()
"""Names this way to read: vectors of texts that were read otherwise are other vectors."""


def bare(text: str) -> str:
    """Return the question itself; the text as it is where nothing would be left. Pure, about 10 us."""
    found = _CHINESE.search(text)
    opening, closing = (_OPENING_ZH, _CLOSING_ZH) if found else (_OPENING, _CLOSING)
    kept = text
    for _ in range(_ROUNDS):
        match = opening.match(kept)
        if match is None or not match.end():
            break
        kept = kept[match.end() :]
    if not found and _THING.match(kept) and _TOLD.search(text[: len(text) - len(kept)]):
        kept = f"what is {kept}"
    for _ in range(_ROUNDS):
        match = closing.search(kept, max(0, len(kept) - _LONGEST_CLOSING))
        if match is None or (not found and _is_named(kept[: match.start()], match)):
            break
        asks = next((sign for sign in "?？" if sign in match.group()), "")
        kept = kept[: match.start()].rstrip(" ,，") + asks
    if not found:
        kept = _unfronted(kept.lstrip())
    least = 2 if found else 4
    return kept if len(kept.strip(" ?？.!。！,，")) >= least else text


def _is_named(before: str, closing: re.Match[str]) -> bool:
    if closing["gap"].strip():
        return False
    return _NAMES.search(before) is not None or not (closing["plea"] or len(before.split()) >= _LEAST_WORDS)


def _unfronted(text: str) -> str:
    match = _FRONTED.match(text)
    if match is None:
        return text
    front = match["front"]
    return f"{match['question']} {front[0].lower()}{front[1:]}{match['end']}"
