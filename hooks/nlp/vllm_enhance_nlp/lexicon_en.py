"""English word tables: connectives after the PDTB 3.0 list, closed classes, common verbs.

Tables only; the rules that read them are in `tokens`, `connectives_en`, `clauses`, `reference_en` and `signals`.
Connectives: Webber, Prasad, Lee, Joshi, "The Penn Discourse Treebank 3.0 Annotation Manual" (2019), appendix A,
with its senses folded into the eight of `connectives.Sense`; concession counts as contrast.
"""

from __future__ import annotations

from typing import Final

from .tables import word_set

__all__ = [
    "ADVERBIALS",
    "AUXILIARIES",
    "BARE_NEGATIONS",
    "BASE_VERBS",
    "BE_FORMS",
    "COMPARATIVES",
    "COORDINATORS",
    "DETERMINERS",
    "EMBEDDING_WORDS",
    "GREETINGS",
    "IRREGULAR_COMPARATIVES",
    "IRREGULAR_PAST",
    "MODAL_LICENSERS",
    "NEGATIONS",
    "NOT_COMPARATIVE",
    "OBJECT_PRONOUNS",
    "PERSON_NOUNS",
    "PHRASAL",
    "PREPOSITIONS",
    "STOP_WORDS",
    "SUBJECT_PRONOUNS",
    "SUBORDINATORS",
    "SUBORDINATORS_FIRST",
    "WH_WORDS",
]


def _phrases(sense: str, text: str) -> dict[tuple[str, ...], str]:
    return {tuple(phrase.split()): sense for phrase in text.split("|")}


# --- Connectives -----------------------------------------------------------------------------------------------

# Join clauses or verb phrases, but nouns as well: `connectives_en` decides by what follows.
COORDINATORS: Final = {
    **_phrases("conjunction", "and|as well as|and also"),
    **_phrases("alternative", "or|or else"),
    **_phrases("contrast", "but|yet"),
    **_phrases("cause", "so|and so|and therefore|and thus"),
    **_phrases("time", "and then"),
}

# Open a subordinate clause (a finite clause, or a gerund: "before signing").
SUBORDINATORS: Final = {
    **_phrases("cause", "because|since|as|now that|given that|seeing that|seeing as|inasmuch as"),
    **_phrases(
        "condition",
        "if|unless|as long as|so long as|provided that|providing that|assuming that|assuming|suppose|"
        "supposing|on condition that|in case|only if|in the event that|if only",
    ),
    **_phrases(
        "contrast",
        "although|though|even though|even if|whereas|while|albeit|despite the fact that|in spite "
        "of the fact that|"
        "except that|even when",
    ),
    **_phrases(
        "time",
        "when|whenever|before|after|until|till|once|as soon as|by the time|ever since|every time|each time|"
        "the moment|just when|right after|right before|shortly after|shortly before|soon after|even after",
    ),
    **_phrases("purpose", "so that|in order that|in order to|so as to|lest|so as not to|in order not to"),
    **_phrases("comparison", "as if|as though|just as|much as"),
}

SUBORDINATORS_FIRST: Final = frozenset(
    words[0]
    for words in SUBORDINATORS
    if words[0]
    not in ("each", "every", "just", "right", "shortly", "soon", "the", "much", "by", "on", "in", "so", "even")
)

# Take a noun phrase as well as a gerund; with a noun they open no clause of their own.
PHRASAL: Final = {
    **_phrases("cause", "because of|due to|thanks to|owing to|on account of|as a result of"),
    **_phrases("contrast", "despite|in spite of|as opposed to|in contrast to|in contrast with|unlike"),
    **_phrases("alternative", "instead of|rather than"),
    **_phrases("comparison", "compared to|compared with|in comparison to|in comparison with"),
    **_phrases("conjunction", "in addition to"),
    **_phrases("purpose", "for the purpose of|with the aim of"),
}

# Link a sentence or clause to what came before; counted at the start of a clause or between commas.
ADVERBIALS: Final = {
    **_phrases(
        "conjunction",
        "also|moreover|furthermore|in addition|additionally|besides|what is more|what's more|on "
        "top of that|"
        "on the one hand",
    ),
    **_phrases(
        "contrast",
        "however|nevertheless|nonetheless|on the other hand|by contrast|in contrast|on the "
        "contrary|conversely|"
        "still|even so|that said|having said that",
    ),
    **_phrases(
        "cause",
        "therefore|thus|hence|consequently|as a result|accordingly|for this reason|for that reason|"
        "as a consequence|that is why",
    ),
    **_phrases(
        "time",
        "then|afterwards|afterward|subsequently|meanwhile|in the meantime|after that|before that|later on|"
        "at the same time|finally|previously",
    ),
    **_phrases("alternative", "otherwise|alternatively|instead|if not"),
    **_phrases("condition", "if so|in that case"),
    **_phrases("comparison", "similarly|likewise|in the same way|by comparison"),
}

# After one of these "if" and "when" open an indirect question, not a condition or a time clause.
EMBEDDING_WORDS: Final = word_set(
    "know knows knew known wonder wonders wondering wondered ask asks asked asking check checks "
    "checked checking see "
    "tell sure find determine decide test verify learn understand explain remember remind say show "
    "figure out about "
    "of idea matter matters unclear unsure certain confirm detect predict specify choose and or guess"
)

# --- Closed classes --------------------------------------------------------------------------------------------

WH_WORDS: Final = word_set("what who whom whose which when where why how what's who's where's how's why's when's")
BE_FORMS: Final = word_set("am is are was were be been being isn't aren't wasn't weren't")
MODAL_LICENSERS: Final = word_set(
    "do does did can could will would shall should may might must to don't doesn't didn't can't "
    "couldn't won't "
    "wouldn't shouldn't mustn't cannot let please"
)
AUXILIARIES: Final = (
    BE_FORMS
    | (MODAL_LICENSERS - {"to", "let", "please"})
    | word_set("have has had having haven't hasn't hadn't ought ain't needn't")
)
SUBJECT_PRONOUNS: Final = word_set(
    "i you he she it we they there this that these those someone somebody everyone everybody "
    "anyone anybody nobody "
    "something everything nothing anything people i'm you're he's she's it's we're they're there's "
    "that's i've you've "
    "we've they've i'll you'll he'll she'll it'll we'll they'll i'd you'd he'd she'd we'd they'd"
)
OBJECT_PRONOUNS: Final = word_set("me you him her it us them myself yourself itself themselves one ones")
DETERMINERS: Final = word_set(
    "a an the my your his her its our their this that these those some any no every each another "
    "all both several "
    "many much few most more which what whose"
)
PREPOSITIONS: Final = word_set(
    "in on at by for from with without of to into onto over under between among through during "
    "against about within "
    "across toward towards per via using like near behind beyond above below inside outside around "
    "along after "
    "before since until till than as off up down out"
)
GREETINGS: Final = (
    "hi there",
    "hello there",
    "good morning",
    "good afternoon",
    "good evening",
    "hi",
    "hello",
    "hey",
    "dear all",
    "greetings",
)
PERSON_NOUNS: Final = word_set(
    "president king queen minister chancellor author writer inventor founder ceo director actor "
    "actress singer player "
    "scientist artist painter poet composer emperor pope mayor coach captain leader philosopher "
    "doctor teacher prince "
    "princess chairman secretary general governor senator"
)
BARE_NEGATIONS: Final = word_set(
    "not no never none nobody nothing nowhere neither nor cannot without hardly scarcely barely rarely seldom"
)
NEGATIONS: Final = BARE_NEGATIONS | word_set(
    "don't doesn't didn't can't couldn't won't wouldn't shouldn't mustn't isn't aren't wasn't "
    "weren't haven't hasn't "
    "hadn't ain't needn't dont doesnt didnt cant couldnt wont wouldnt shouldnt isnt arent wasnt "
    "werent havent hasnt"
)

IRREGULAR_COMPARATIVES: Final = word_set(
    "better best worse worst more most less least fewer fewest further furthest farther farthest elder eldest"
)
NOT_COMPARATIVE: Final = word_set(
    "other another order over under after never ever either neither whether rather water paper "
    "number computer server "
    "user power letter matter river summer winter weather together mother father brother sister "
    "daughter finger dinner "
    "doctor driver printer router docker laptop poster filter buffer pointer header member later "
    "former offer answer "
    "enter center consider remember discover deliver differ suffer transfer refer prefer layer "
    "player teacher master "
    "butter pepper ginger tiger spider flower tower shower chapter folder browser cluster "
    "container parameter compiler "
    "interest request test west east guest forest nest chest rest best quest harvest protest "
    "invest suggest contest "
    "honest digest latest soccer cancer liver fever corner officer manager leader reader writer "
    "singer customer "
    "partner quarter character adapter adopter per newsletter leather ladder bladder shoulder "
    "border wonder gender "
    "murder thunder cover silver copper paper super upper inner outer proper meter liter litre"
)
COMPARATIVES: Final = word_set(
    "than versus vs compare compared comparison difference different prefer superior inferior "
    "same similar equal equivalent identical"
)

STOP_WORDS: Final = (
    WH_WORDS
    | AUXILIARIES
    | SUBJECT_PRONOUNS
    | OBJECT_PRONOUNS
    | DETERMINERS
    | PREPOSITIONS
    | word_set("and or but so if because although though while when not nor please tell me too also very just then s t")
)

# --- Verbs -----------------------------------------------------------------------------------------------------

IRREGULAR_PAST: Final = {
    form: base
    for base, forms in (
        entry.split(":")
        for entry in [
            "be:was,were,been",
            "become:became",
            "begin:began,begun",
            "break:broke,broken",
            "bring:brought",
            "build:built",
            "buy:bought",
            "catch:caught",
            "choose:chose,chosen",
            "come:came",
            "cost:cost",
            "cut:cut",
            "do:did,done",
            "draw:drew,drawn",
            "drink:drank,drunk",
            "drive:drove,driven",
            "eat:ate,eaten",
            "fall:fell,fallen",
            "feel:felt",
            "fight:fought",
            "find:found",
            "fly:flew,flown",
            "forget:forgot,forgotten",
            "get:got,gotten",
            "give:gave,given",
            "go:went,gone",
            "grow:grew,grown",
            "have:had",
            "hear:heard",
            "hide:hid,hidden",
            "hit:hit",
            "hold:held",
            "keep:kept",
            "know:knew,known",
            "lead:led",
            "learn:learnt",
            "leave:left",
            "lend:lent",
            "let:let",
            "lie:lay,lain",
            "lose:lost",
            "make:made",
            "mean:meant",
            "meet:met",
            "pay:paid",
            "put:put",
            "read:read",
            "ride:rode,ridden",
            "ring:rang,rung",
            "rise:rose,risen",
            "run:ran",
            "say:said",
            "see:saw,seen",
            "sell:sold",
            "send:sent",
            "set:set",
            "shake:shook",
            "shoot:shot",
            "show:shown",
            "shut:shut",
            "sing:sang,sung",
            "sink:sank,sunk",
            "sit:sat",
            "sleep:slept",
            "speak:spoke,spoken",
            "spend:spent",
            "stand:stood",
            "steal:stole,stolen",
            "swim:swam,swum",
            "take:took,taken",
            "teach:taught",
            "tell:told",
            "think:thought",
            "throw:threw,thrown",
            "understand:understood",
            "wake:woke,woken",
            "wear:wore,worn",
            "win:won",
            "write:wrote,written",
        ]
    )
    for form in forms.split(",")
}

BASE_VERBS: Final = frozenset(IRREGULAR_PAST.values()) | word_set(
    "accept access achieve acquire act activate adapt add adjust admit adopt advise affect agree "
    "allow analyse analyze "
    "announce answer apologize appear apply appoint approach approve argue arrange arrive ask "
    "assemble assign assist "
    "assume attach attack attend authenticate avoid backup bake balance ban bathe beat behave "
    "believe belong bend bet "
    "bill bite blame bleed bless block bloom blow border boil book boot borrow brew broadcast "
    "browse brush burn cache "
    "calculate call calm cancel capture care carry cause celebrate change charge chase chat check "
    "chop claim clean "
    "clear click climb clone close collapse collect combine commit communicate commute compare "
    "compete compile complain "
    "complete compose compress compute concentrate conclude conduct configure confirm connect "
    "consider consist consume "
    "contact contain continue contribute control convert convince cook cool copy correct count "
    "cover crash create cross "
    "cry customize dance debug decide declare decline decorate decrease define delay delete "
    "deliver demand deny depend "
    "deploy deposit describe deserve design destroy detect determine develop die differ digest "
    "disable disagree "
    "disappear discard disconnect discover discuss display distinguish distribute dive divide "
    "divorce donate download "
    "dream dress drop dry earn edit educate elect email embed emit employ enable encode encounter "
    "encourage encrypt end "
    "enforce engage enjoy enlarge ensure enter escape establish estimate evaluate evolve examine "
    "exchange execute "
    "exercise exist expand expect expire explain explode explore export express extend extract "
    "face fail fasten feed "
    "ferment fetch file fill filter finish fit fix flash flatten float flow focus fold follow "
    "force forgive form format "
    "forward found freeze fry function gain gather generate glue grab grill grind grow guess guide "
    "handle happen harm "
    "harvest hate heal heat help hide hike hire hope host hunt hurt identify ignore illustrate "
    "imagine implement imply "
    "import impress improve include increase indicate infect inform inherit inject insert inspect "
    "install instruct "
    "integrate intend interact interpret interview introduce invent invest investigate invite iron "
    "iterate join judge "
    "jump justify kick kill kiss knit knock label land laugh launch lay leak lean lift light "
    "like limit link list "
    "listen live load locate lock log look love lower maintain manage mark marry match matter measure "
    "melt memorize mention "
    "merge migrate mine minimize miss mix modify monitor mount move multiply name negotiate "
    "normalize notice notify "
    "number obey object observe obtain occur offer open operate oppose optimize order organize "
    "originate overcome "
    "overwrite own pack paint park parse participate pass paste pay peel perform permit persuade "
    "pick plan plant play "
    "plug polish pour practice practise pray predict prefer prepare prescribe present preserve "
    "press pretend prevent "
    "print process produce profile program promise promote pronounce propose protect prove provide "
    "prune publish pull "
    "pump purchase purify push qualify quit quote raise rank rate reach react realize rebuild "
    "receive reappear recharge recognize "
    "recommend record recover recruit recycle reduce refer reflect refresh refund refuse register "
    "reheat reinstall "
    "reject relate relax release rely remain remember remind remove rename renew rent repair "
    "repeat replace reply report "
    "represent request require rescue research reserve reset resign resize resolve respond rest "
    "restart restore retire "
    "retrieve return reuse reverse review revise rewrite rinse roast roll rotate row ruin sail "
    "satisfy save scale scan "
    "schedule score scratch search season seat secure seem select separate serve settle sew share "
    "shave shift ship "
    "shop shorten shout sign simplify skate ski skip slice slow smell smile smoke snow solve sort "
    "sound spell spill "
    "spin split spread sprint stain start state stay stick stir stop store stretch strike study "
    "subscribe succeed "
    "suffer suggest suit summarise summarize supply support suppose surf surprise surrender "
    "survive sweep swap switch "
    "sync tag talk target taste test thank tie touch tour trace track trade train transfer "
    "transform translate "
    "transport travel treat trigger trim trust try tune turn type undo uninstall unlock update "
    "upgrade upload use validate "
    "value verify view visit visualize vote wait walk want warm warn wash waste watch water weigh "
    "welcome whisk whistle "
    "wilt wipe wish withdraw work worry wrap yell zoom affect agree need rain patent sing"
)
