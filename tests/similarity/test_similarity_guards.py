"""The guards: what must be refused, what must pass; English and Chinese."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from vllm_enhance_similarity.guards import alignment, facts, lexicon, questions
from vllm_enhance_similarity.guards.compare import GUARDS, compare_texts
from vllm_enhance_similarity.guards.direction import directed
from vllm_enhance_similarity.guards.facts import read_facts
from vllm_enhance_similarity.guards.freshness import is_time_bound
from vllm_enhance_similarity.guards.numbers import read_numbers
from vllm_enhance_similarity.guards.symbols import read_symbols
from vllm_enhance_similarity.guards.wording import marks

REFUSED = [
    ("quantifier", "run it if all of the jobs succeed", "run it if any of the jobs succeed"),
    ("quantifier", "does it contain any digits", "does it contain only digits"),
    ("antonym", "how do I get into safe mode", "how do I get out of safe mode"),
    ("negation", "what happens when I fail to file taxes", "what happens when I file taxes"),
    ("direction", "how do I redirect HTTPS to HTTP", "how do I redirect HTTP to HTTPS"),
    ("number", "top 5 films of 2010", "top 5 films of 2011"),
    ("number", "a loan of twenty thousand", "a loan of thirty thousand"),
    ("number", "贷款20万利息多少", "贷款30万利息多少"),
    ("number", "第二次世界大战的原因", "第三次世界大战的原因"),
    ("unit", "how far is 5 km", "how far is 5 miles"),
    ("unit", "the weight in kilograms", "the weight in pounds"),
    ("negation", "can I return it", "can I not return it"),
    ("negation", "can I leave without paying", "can I not leave without paying"),
    ("negation", "为什么能借款", "为什么不能借款"),
    ("antonym", "how to open an account", "how to close an account"),
    ("antonym", "is coffee healthy", "is coffee unhealthy"),
    ("antonym", "怎么开通免密支付", "怎么关闭免密支付"),
    ("antonym", "如何绑定银行卡", "如何解绑银行卡"),
    ("language", "translate water into French", "translate water into German"),
    ("direction", "convert USD to EUR", "convert EUR to USD"),
    ("direction", "does smoking cause stress", "does stress cause smoking"),
    ("direction", "how do I upgrade to version 2", "how do I upgrade from version 2"),
    ("direction", "is A greater than B", "is B greater than A"),
    ("direction", "who beat Brazil", "who did Brazil beat"),
    ("direction", "who killed Caesar", "whom did Caesar kill"),
    ("direction", "what causes high blood pressure", "what does high blood pressure cause"),
    ("direction", "which team beat Brazil", "which team did Brazil beat"),
    ("direction", "who taught Plato", "who did Plato teach"),
    ("direction", "who taught Plato", "who was taught by Plato"),
    ("direction", "which drug inhibits warfarin", "which drug is inhibited by warfarin"),
    ("direction", "who is Anna's mother", "who is Anna the mother of"),
    ("direction", "is a square a rectangle", "is a rectangle a square"),
    ("direction", "are all dogs mammals", "are all mammals dogs"),
    ("direction", "what is bigger than the sun", "what is the sun bigger than"),
    ("negation", "怎么关注", "怎么取消关注"),
    ("unit", "what opens at 9 a.m.", "what opens at 9 p.m."),
    ("direction", "从北京到上海多远", "从上海到北京多远"),
    ("direction", "猫比狗聪明吗", "狗比猫聪明吗"),
    ("question_type", "who invented the telephone", "when was the telephone invented"),
    ("question_type", "how is sugar made", "why is sugar made"),
    ("questions", "What is a lighthouse and when was the lighthouse invented?", "When was the lighthouse invented?"),
    ("questions", "什么是人工智能，它有哪些应用？", "什么是人工智能？"),
    ("question_type", "怎么学编程", "为什么学编程"),
    ("language", "what is artificial intelligence", "什么是人工智能"),
    ("language", "what is the capital of Norway", "Was ist die Hauptstadt von Norwegen"),
    ("language", "Who wrote Don Quixote?", "¿Quién escribió Don Quijote?"),
    ("language", "Qui a écrit Don Quichotte ?", "¿Quién escribió Don Quijote?"),
    ("language", "Who painted the Mona Lisa?", "Qui a peint la Joconde ?"),
    ("language", "What is artificial intelligence?", "Was ist künstliche Intelligenz?"),
    ("language", "Is Python easy to learn?", "Is Python makkelijk te leren?"),
    ("language", "How tall is the Eiffel Tower?", "Qual é a altura da Torre Eiffel?"),
    ("language", "How tall is the Eiffel Tower?", "Quanto è alta la torre Eiffel?"),
    ("language", "Where do you live?", "Gdzie mieszkasz w świecie żółwi?"),
    ("language", "how do I sort a list?", "how do I sort a list? Answer in French."),
    ("language", "explain photosynthesis", "explain photosynthesis in German please"),
    ("language", "how are rainbows made", "how are rainbows made, in Spanish"),
    ("language", "Is a Chinese zodiac sign lucky?", "Is a Chinese zodiac sign lucky? Answer in Chinese."),
    ("language", "解释光合作用", "用英语解释光合作用"),
    ("code", "what does `sorted(x)` do", "what does `reversed(x)` do"),
    ("number", "what is new in Python 3.10", "what is new in Python 3.1"),
    ("number", "where is parcel 9400111899223197428490", "where is parcel 9400111899223197428491"),
    ("number", "is 1234.567 large", "is 1234.568 large"),
    ("direction", "what does range(2, 10) give", "what does range(10, 2) give"),
    ("direction", "a shirt for 20 and a hat for 15 dollars", "a shirt for 15 and a hat for 20 dollars"),
    ("direction", "copy the file and then delete the folder", "delete the file and then copy the folder"),
    ("symbol", "What is 5*3?", "What is 5/3?"),
    ("symbol", "What is 5 - 3?", "What is 3 - 5?"),
    ("symbol", "What is -5 plus 3?", "What is 5 plus 3?"),
    ("symbol", "What is 5!", "What is 5?"),
    ("symbol", "is x > y", "is x < y"),
    ("symbol", "derivative of sin(x)^2", "derivative of sin(x^2)"),
    ("symbol", "the graph of f(x)=x+1", "the graph of f(x)=x-1"),
    ("symbol", "What is A∩B?", "What is A∪B?"),
    ("symbol", "计算5×3", "计算5÷3"),
    ("symbol", "计算 5＋3", "计算 5－3"),
    ("symbol", "How do I learn C++?", "How do I learn C?"),
    ("symbol", "How do I learn C#?", "How do I learn C?"),
    ("symbol", "Is .NET good?", "Is net good?"),
    ("symbol", "How do I use @property?", "How do I use property?"),
    ("symbol", "what does 👍 mean", "what does 👎 mean"),
    ("symbol", "What does :) mean?", "What does :( mean?"),
    ("link", "summarise https://example.com/a", "summarise https://example.com/b"),
]
HINTED = [
    ("entity", "who is the president of France", "who is the president of Spain"),
    ("entity", "when was Alice Munro born", "when was Bob Dylan born"),
    ("substitution", "how do I cook rice", "how do I cook lentils"),
    ("substitution", "张伟是谁", "王芳是谁"),
    ("entity_extra", "how do I export contacts", "how do I export contacts from Outlook"),
]
SAME_WORDS = [
    ("how do I learn to swim?", "How do I learn to swim"),
    ("HOW DO I LEARN TO SWIM", "how do I learn to swim"),
    ("What's the capital of Peru?", "What is the capital of Peru?"),
    ("I don't know how to cook rice", "I do not know how to cook rice"),
    ("Hi, can you please tell me how to cook rice? Thanks!", "how do I cook rice"),
    ("How can I reset my password?", "how do I reset my password"),
    ("how do I lose weight", "how do I lose wieght"),
    ("In Python, how do I sort a list?", "How do I sort a list in Python?"),
    ("difference between cats and dogs", "difference between dogs and cats"),
    ("what opens at 9 a.m.?", "what opens at 9 am"),
    ("costs 1,000 dollars", "costs 1000 dollars"),
    ("where are the rules", "where is the rule"),
    ("how do I quickly sort a list", "how do I sort a list quickly"),
    ("What is 5 × 3?", "What is 5 * 3?"),
    ("怎么还款～", "怎么还款"),
    ("请问怎么还款？谢谢", "怎么还款呢"),
]
OTHERWISE = [  # hint, asked, stored: an embedding puts all of these near each other
    ("wording", "is the refund paid if I cancel", "is the refund paid unless I cancel"),
    ("wording", "do I need a passport and a visa", "do I need a passport or a visa"),
    ("wording", "can guests log in but members cannot", "guests cannot log in but can members"),
    ("wording", "do all plans include support", "do some plans include support"),
    ("wording", "few people vote", "a few people vote"),
    ("wording", "only admins can delete users", "admins can only delete users"),
    ("wording", "who is the prime minister of Italy", "who was the prime minister of Italy"),
    ("wording", "should I stop taking it", "can I stop taking it"),
    ("wording", "how do I delete my account", "how do I delete your account"),
    ("wording", "the author's friend", "the friend's author"),
    ("wording", "books about Hemingway", "books by Hemingway"),
    ("wording", "what is a guest house", "what is a house guest"),
    ("wording", "rights of the employee", "rights of the employer"),
    ("wording", "how does photosynthesis work", "how does photosynthesis work in detail"),
    ("wording", "is the store open on sunday", "when is the store open on sunday"),
    ("wording", "what does *args do", "what does **args do"),
    ("wording", "what does cd .. do", "what does cd . do"),
    ("wording", "what does x[1:] give", "what does x[:1] give"),
    ("wording", "快递到了吗", "快递到吗"),
    ("wording", "只能退一次吗", "能退一次吗"),
    ("wording", "蜜蜂是什么", "蜂蜜是什么"),
    ("wording", "我能登录但不能付款", "我不能登录但能付款"),
    ("case", "what does grep -v do", "what does grep -V do"),
    ("case", "what does %m mean", "what does %M mean"),
    ("case", "what does it do", "what does IT do"),
    ("case", "how much is 5 mW", "how much is 5 MW"),
]
HARMLESS = [
    ("are there any flights left", "are there some flights left"),
    ("how do I learn to swim?", "How do I learn to swim"),
    ("What's the capital of Peru?", "What is the capital of Peru?"),
    ("I don't know how to cook rice", "I do not know how to cook rice"),
    ("how many miles in 5 km", "how many miles in five km"),
    ("costs 1,000 dollars", "costs 1000 dollars"),
    ("In Python, how do I sort a list?", "How do I sort a list in Python?"),
    ("difference between cats and dogs", "difference between dogs and cats"),
    ("how do I lose weight", "how do I lose wieght"),
    ("whether or not to buy", "whether to buy"),
    ("please tell me how to bake bread", "how to bake bread"),
    ("how tall is the tower", "what is the height of the tower"),
    ("贷款20万利息多少", "贷款二十万利息多少"),
    ("What is 5 + 3?", "what is 5+3"),
    ("What is 5 × 3?", "What is 5 * 3?"),
    ("What is x + 3?", "What is x + three?"),
    ("rest for 3-4 months", "rest for 3 to 4 months"),
    ("rest for 3-4 months", "rest for three-4 months"),
    ("What is #include?", "What's #include?"),
    ("is it true/false", "is it true or false"),
    ("covid-19 symptoms", "covid 19 symptoms"),
    ("an e-mail client", "an e mail client"),
    ("what opens at 9 a.m.?", "what opens at 9 am"),
    ("what does a dentist do", "what do dentists do"),
    ("who invented the telephone", "who was the telephone invented by"),
    ("free online games", "online free games"),
    ("how do I quickly sort a list", "how do I sort a list quickly"),
    ("is it safe to swim in Rome", "in Rome, is it safe to swim"),
    ("who did you meet", "whom did you meet"),
    ("how to get to Rome", "how do I get to Rome"),
    ("the years 2019\u20132020", "the years 2019-2020"),
    ("Hello! How are you?", "Hello, how are you?"),
    ("- How do I swim?", "How do I swim?"),
    ("Is it 20 °C?", "is it 20 C"),
    ("怎么还款～", "怎么还款"),
    ("怎么还款😊", "怎么还款"),
    ("How are you :)", "How are you?"),
    ("3个人去旅游要多少钱", "三个人去旅游要多少钱"),
    ("如何学习英语", "你好，如何学习英语"),
    ("怎么还款", "请问怎么还款？"),
    # words that look foreign
    ("report my card as lost", "how do I report my card as lost"),
    ("roll a die", "can you roll a die"),
    ("the weather in la", "what is the weather in la"),
    ("hotels in Las Vegas", "what are hotels in Las Vegas"),
    ("when will my next paycheck come", "do you know when my next paycheck will come"),
    ("café résumé", "what is café résumé"),
    ("how do I say hello in French", "how can I say hello in French"),
    ("how to learn French", "how do I learn French"),
]


@pytest.mark.parametrize(("guard", "asked", "stored"), REFUSED)
def test_vetoes_both_ways(guard: str, asked: str, stored: str) -> None:
    for one, other in ((asked, stored), (stored, asked)):
        assert guard in {found.guard for found in compare_texts(one, other) if found.strength == "veto"}


@pytest.mark.parametrize(("guard", "asked", "stored"), HINTED + OTHERWISE)
def test_hints_both_ways(guard: str, asked: str, stored: str) -> None:
    for one, other in ((asked, stored), (stored, asked)):
        assert guard in {found.guard for found in compare_texts(one, other) if found.strength == "hint"}


@pytest.mark.parametrize(("asked", "stored"), HARMLESS)
def test_harmless_edits_pass(asked: str, stored: str) -> None:
    assert {found.guard for found in compare_texts(asked, stored)} <= {"wording"}


@pytest.mark.parametrize(("asked", "stored"), SAME_WORDS)
def test_the_same_words_raise_no_doubt(asked: str, stored: str) -> None:
    assert compare_texts(asked, stored) == () == compare_texts(stored, asked)


@pytest.mark.parametrize(
    "text", ["what's the weather today", "latest news", "Who is currently leading?", "现在几点", "最新的政策"]
)
def test_time_bound(text: str) -> None:
    assert is_time_bound(text)


@pytest.mark.parametrize("text", ["how do I know", "what is a nowcast", "when was Rome founded", "唐朝是哪年建立的"])
def test_not_time_bound(text: str) -> None:
    assert not is_time_bound(text)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("one hundred and five", {"100", "5"}),
        ("two thousand three hundred", {"2300"}),
        ("one of them", set()),
        ("the 3rd", {"#3"}),
        ("version 3.10.1", {"3.10.1"}),
        ("at 10:30", {"10:30"}),
        ("2.50 euros", {"2.5"}),
    ],
)
def test_numbers(text: str, numbers: set[str]) -> None:
    assert read_facts(text).numbers == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("二〇二四年", {"2024"}), ("三百二十", {"320"}), ("一万两千", {"12000"}), ("统一", set()), ("1.5万", {"15000"})],
)
def test_chinese_numbers(text: str, numbers: set[str]) -> None:
    assert read_numbers(read_facts(text).tokens, text) == numbers


@hypothesis_settings(max_examples=300)
@given(st.text(max_size=120), st.text(max_size=120))
@example("", "N'T")
def test_any_text_is_compared_without_fault(one: str, other: str) -> None:
    names = {guard.name for guard in GUARDS}
    assert {found.guard for found in compare_texts(one, other)} <= names
    assert compare_texts(one, one) == ()


def test_long_texts_take_no_quadratic_time() -> None:
    import time

    one = " ".join(f"word{at}" for at in range(3000))
    started = time.perf_counter()
    compare_texts(one, one + " more")
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("part", ["+", "- ", "a+b ", ":) ", "！"])
def test_a_text_of_signs_takes_no_quadratic_time(part: str) -> None:
    import time

    started = time.perf_counter()
    read_symbols(part * 100_000)
    marks(part * 100_000)
    assert time.perf_counter() - started < 2.0  # 0.1 s here; a quadratic one takes minutes


# ---------------------------------------------------------------------------- short cuts change nothing

_VOCABULARY = "the of to from in how who where what is rice pasta cook cooks seven 7 tom what's 猫 狗"
WORDS = st.lists(st.sampled_from(re.split(" ", _VOCABULARY)), max_size=9).map(" ".join)


@hypothesis_settings(max_examples=1000, deadline=None)
@given(WORDS, WORDS)
@example("how to cook rice", "how to cook pasta")
@example("who is tom", "where is tom")
@example("rice rice is rice", "rice pasta is rice rice")
def test_substitutions_are_those_of_the_whole_alignment(asked: str, stored: str) -> None:
    one, other = read_facts(asked), read_facts(stored)
    found = alignment.align(one, other)
    opcodes = SequenceMatcher(None, one.tokens, other.tokens, autojunk=False).get_opcodes()
    runs = [(one.tokens[i:j], other.tokens[k:m]) for tag, i, j, k, m in opcodes if tag != "equal"]
    assert alignment._replacements(one.tokens, other.tokens) == runs
    if len(found.only_one) > 4 or len(found.only_other) > 4:
        assert (found.substitutes, found.swaps_question_word) == (False, False)
        return
    changes = [[tuple(word for word in side if word not in lexicon.FUNCTION_WORDS) for side in run] for run in runs]
    changes = [change for change in changes if any(change)]
    assert found.substitutes == (len(changes) == 1 and _one_for_another(one.tokens, *changes[0]))
    swaps = len(runs) == 1 and [set(side) & questions.QUESTION_WORDS for side in runs[0]]
    assert found.swaps_question_word == bool(
        swaps and all(swaps) and swaps[0] != swaps[1] and swaps[0] | swaps[1] != {"what", "which"}
    )


def _one_for_another(tokens: tuple[str, ...], mine: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    limit = 4 if {"猫", "狗"} & {*tokens} else 3
    if not mine or not theirs or len(mine) > limit or len(theirs) > limit or len(tokens) == len(mine):
        return False
    same = [alignment._same_word(a, b) for a, b in zip(mine, theirs, strict=False)]
    return not (
        (len(mine) == len(theirs) and all(same))
        or alignment._same_word("".join(mine), "".join(theirs))
        or alignment._same_number(mine, theirs)
    )


@hypothesis_settings(max_examples=500, deadline=None)
@given(WORDS)
def test_directed_words_have_the_things_next_to_their_first_place(text: str) -> None:
    stems = read_facts(text).stems
    things = [word not in lexicon.FUNCTION_WORDS for word in stems]
    for word, (before, after) in directed(stems).items():
        at = stems.index(word)
        assert before == [each for each, thing in zip(stems[:at], things[:at], strict=True) if thing][-1]
        assert after == next(each for each, thing in zip(stems[at + 1 :], things[at + 1 :], strict=True) if thing)
    missing = {"to", "from", "of", "in"} & {*stems} - directed(stems).keys()
    assert all(not any(things[: stems.index(word)]) or not any(things[stems.index(word) + 1 :]) for word in missing)


@hypothesis_settings(max_examples=1000, deadline=None)
@given(st.one_of(st.text(max_size=60), WORDS, st.from_regex(facts._CODE), st.from_regex(facts._LINK)))
def test_what_is_looked_for_first_is_in_all_that_a_pattern_finds(text: str) -> None:
    assert facts._CODE_SIGN.search(text) or not (facts._CODE.search(text) or facts._CODE_BLOCK.search(text))
    assert facts._LINK_SIGN.search(text) or not facts._LINK.search(text)
    assert facts._QUOTE_SIGN.search(text) or not facts._QUOTED.search(text)


@pytest.mark.parametrize("pattern", [pattern for _, _, pattern in questions._ENGLISH])
def test_a_question_contains_one_of_its_words(pattern: str) -> None:
    parts = next(parts for _, parts, each in questions._ENGLISH if each == pattern).split(",")

    @hypothesis_settings(max_examples=100, deadline=None)
    @given(st.from_regex(pattern))
    def check(text: str) -> None:
        assert any(part in text for part in parts)

    check()
