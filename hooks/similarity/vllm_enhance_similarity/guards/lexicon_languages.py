# ruff: noqa: E501 - tables read better in long lines
"""Word tables of languages: what they are called, and the words and letters that tell them apart."""

from __future__ import annotations

from vllm_enhance_similarity.guards.lexicon import words

__all__ = ["LANGUAGE_LETTERS", "LANGUAGE_MARKERS", "LANGUAGE_NAMES"]

LANGUAGE_NAMES = words(
    "english spanish french german chinese japanese korean russian arabic hindi italian portuguese latin greek dutch "
    "turkish swedish polish vietnamese thai hebrew mandarin cantonese urdu bengali tamil "
    "英语 中文 日语 法语 德语 韩语 俄语 西班牙语 阿拉伯语 粤语 普通话"
)

# Words that sentences of a language need. A word may be of several languages, and then it does not tell them apart.
LANGUAGE_MARKERS = {
    "en": words(
        "the is are what how why of and to in does do can you i it for when where who which with was my your from by "
        "or they this that would should could have has had not will be been if about there did at an does its we he she "
        # English words, abbreviations and names that look like another language's
        "as come com die den dos el il la las le los l mi do van von des du al met till son non per con un os e y est di "
        "fare dove pour hay op med att mon ce ses mis ser"
    ),
    "fr": words(
        "le la les des est une un que quoi comment pourquoi où quel quelle et dans pour je vous avec sur du qui quand "
        "combien quels quelles cette ces mes ses nous il ils elle aux pas ne sont être faire faut peut puis mon ce l qu j"
    ),
    "de": words(
        "der die das ist ein eine wie warum was und nicht ich mit für wer wo den dem sie zu auf kann wann welche "
        "welcher welches wieviel viele sind wird werden von im bei nach aus über einen einer eines wir mein meine kein "
        "keine haben oder"
    ),
    "es": words(
        "el los las es una un que qué cómo como por para cuál dónde quién y en con cuándo del puedo hacer la quien cual "
        "donde cuando cuanto cuánto cuántos cuántas cuáles se su lo al más muy este esta está hay ser tiene puede mi mis"
    ),
    "pt": words(
        "os as é uma um que como por para qual onde quem e em com não do da fazer posso você quando quanto quantos "
        "quais são está ao dos pelo pela meu minha mais"
    ),
    "it": words(
        "il lo gli è una un che come perché quale dove chi e in con non di della fare posso si la quando quanto quanti "
        "quali quante cosa sono del nel alla dei delle l più"
    ),
    "nl": words(
        "het een wat hoe waarom wie waar wanneer welke niet ik voor zijn deze naar bij ook maar hoeveel kun wordt is "
        "van en met op te"
    ),
    "sv": words("och att det som är på för hur vad varför vem när vilken vilka jag inte av till kan ett en med den"),
    "da": words("og at det som er på for hvad hvordan hvorfor hvem hvor når hvilken jeg ikke af til kan et en med den"),
    "pl": words("jak jest czy nie dlaczego kto gdzie kiedy ile jaka jaki jakie"),
    "id": words("apa bagaimana mengapa siapa yang untuk dari adalah tidak berapa kapan ini itu di"),
}
LANGUAGE_LETTERS = {
    "fr": frozenset("éèêëàâçîïôûùœæ"),
    "de": frozenset("äöüß"),
    "es": frozenset("áéíóúñ"),
    "pt": frozenset("áéíóúâêôãõçà"),
    "it": frozenset("àèéìòù"),
    "sv": frozenset("åäö"),
    "da": frozenset("åøæ"),
}
