"""A question as words: what of it says the same whatever the wording, and what changes the answer. Pure, English.

Fillers and contractions are taken away, numbers are brought into one form, negation and opposites are named. None of it
understands anything: it is what `features` counts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final, NamedTuple


def _list(words: str) -> list[str]:
    return words.split()


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_APOSTROPHES: Final = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
_IRREGULAR: Final = {
    "won't": "will not", "can't": "can not", "cannot": "can not", "shan't": "shall not", "ain't": "is not",
    "dont": "do not", "doesnt": "does not", "isnt": "is not", "cant": "can not", "wont": "will not",
    "whats": "what is", "wheres": "where is", "hows": "how is", "im": "i am", "ive": "i have", "let's": "let us",
}  # fmt: skip
_SUFFIXES: Final = (
    ("n't", " not"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"), ("'d", " would"), ("'m", " am"),
)  # fmt: skip
_NUMBER_WORDS: Final = {
    word: value
    for value, words in {
        0: "zero", 1: "one single once", 2: "two double twice couple", 3: "three triple thrice", 4: "four", 5: "five",
        6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve dozen", 13: "thirteen",
        14: "fourteen fortnight", 15: "fifteen", 16: "sixteen", 17: "seventeen", 18: "eighteen", 19: "nineteen",
        20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety",
        100: "hundred", 1000: "thousand", 1000000: "million",
    }.items()
    for word in words.split()
}  # fmt: skip
_ORDINALS: Final = {
    word: str(value)
    for value, word in enumerate(
        _list("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), start=1
    )
}
_TIMES: Final = _set(
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thurs fri sat sun january february "
    "march april june july august september october november december jan feb apr jun jul aug sep sept oct nov dec "
    "weekend weekends weekday weekdays morning afternoon evening night tonight midnight noon easter christmas "
    "spring summer autumn winter daily weekly monthly yearly annual annually quarterly hourly"
)
NEGATIONS: Final = _set(
    "not no never none nobody nothing neither nor without unless except excluding exclude excluded non avoid stop "
    "prevent refuse deny unable instead lack lacking missing"
)
_FILLERS: Final = _set(
    "please thanks thank hello hi hey um uh erm so like just actually basically really sorry bother okay ok cheers "
    "kindly quick question wondering wonder hiya there"
)
# What holds a sentence together and says little.
_LIGHT: Final = _set(
    "a an the is are am be been being was were do does did have has had will would shall should can could may might "
    "must of to in on at for from with by as about into i you he she it we they me him her us them my your his its our "
    "their this that these those there and or but if then than so what which who whom whose when where why how get got "
    "way need want s any some"
)
_ROLES: Final = _set(
    "my your his her our their someone else friend child kid son daughter partner wife husband parent mother father "
    "employer employee landlord tenant boss guest seller buyer sender recipient company team family student"
)
_ASKS: Final = _set("what which who when where why how many much long often far old can do does is are should")
_COMPARING: Final = _set(
    "more less most least fewer fewest best worst better worse higher lower highest lowest cheapest cheaper largest "
    "smallest biggest longest shortest fastest slowest quickest earliest latest minimum maximum min max over under "
    "above below before after until since within earlier later faster slower longer shorter larger smaller"
)
_OPPOSITES: Final = frozenset(
    frozenset(pair.split("/"))
    for pair in _list(
        "open/close open/closed open/shut on/off in/out up/down before/after include/exclude included/excluded "
        "including/excluding add/remove enable/disable lock/unlock start/stop start/end begin/end buy/sell "
        "upgrade/downgrade pause/resume pass/fail increase/decrease raise/lower more/less most/least most/fewest "
        "minimum/maximum min/max highest/lowest best/worst cheapest/dearest cheap/expensive early/late earlier/later "
        "fast/slow fastest/slowest quickest/slowest accept/reject accept/decline approve/reject allow/forbid "
        "allowed/banned allowed/forbidden allowed/prohibited permitted/prohibited compulsory/optional "
        "mandatory/optional required/optional public/private show/hide safe/unsafe legal/illegal eat/avoid "
        "withdraw/deposit send/receive lend/borrow pay/receive join/leave cancel/keep cancel/renew activate/deactivate "
        "connect/disconnect install/uninstall subscribe/unsubscribe follow/unfollow mute/unmute import/export "
        "encrypt/decrypt mount/unmount save/delete create/delete keep/delete win/lose arrive/depart arrival/departure "
        "arrivals/departures inside/outside indoor/outdoor indoors/outdoors hot/cold warm/cold old/new full/empty "
        "with/without always/never ever/never all/none everyone/nobody long/short longest/shortest large/small "
        "largest/smallest biggest/smallest big/small heavy/light male/female men/women adult/child adults/children "
        "employer/employee landlord/tenant buyer/seller sender/recipient push/pull left/right north/south east/west "
        "domestic/international inbound/outbound upload/download incoming/outgoing internal/external single/joint "
        "positive/negative true/false success/failure profit/loss credit/debit paid/unpaid covered/excluded "
        "check-in/checkout in-store/online online/offline front/back top/bottom first/last hire/fire approve/deny "
        "grant/revoke grant/refuse extend/shorten rise/fall gain/lose advantages/disadvantages pros/cons "
        "benefits/risks strengths/weaknesses cause/prevent causes/prevents wet/dry raw/cooked"
    )
)
_PREFIXES: Final = ("un", "non", "non-", "dis", "in", "im", "ir", "il", "de", "mis", "anti", "anti-")
_TOKEN: Final = re.compile(
    r"[£$€]?\d[\d,]*(?:\.\d+)?(?:st|nd|rd|th|k|m|gb|mb|kb|tb|kg|g|km|cm|mm|ml|l|am|pm|%|p|c)?|[a-z]+(?:[-'][a-z]+)*"
)
_NUMERIC: Final = re.compile(r"([£$€]?)(\d[\d,]*(?:\.\d+)?)([a-z%]*)")
_ENTITY: Final = re.compile(r"\b(?:[A-Z][\w&'.-]*[A-Z0-9][\w&'.-]*|[A-Z]{2,}\w*|[A-Z][a-z][\w'-]*|[A-Z]\b)")


class Words(NamedTuple):
    """One question.

    Attributes:
        all: its words in order, fillers left out.
        content: those that say something, as stems.
        numbers: in one form, with their unit or currency; `times` are days, months, times of day.
        negations: how many words deny something.
        entities: names, lower case; a question that is in one case has none.
    """

    all: tuple[str, ...]
    content: tuple[str, ...]
    numbers: frozenset[str]
    times: frozenset[str]
    negations: int
    entities: frozenset[str]
    roles: frozenset[str]
    asks: frozenset[str]
    comparing: frozenset[str]


def words(text: str) -> Words:
    """A question, read."""
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    tokens = [token for token in _TOKEN.findall(_expanded(text.lower())) if token not in _FILLERS]
    numbers: set[str] = set()
    plain: list[str] = []
    for token in tokens:
        if token[-1].isdigit() or token[0].isdigit() or token[0] in "£$€":
            number = _number(token)
            numbers.add(number)
            plain.append(number)
        elif token in _NUMBER_WORDS:
            numbers.add(str(_NUMBER_WORDS[token]))
            plain.append(str(_NUMBER_WORDS[token]))
        elif token in _ORDINALS:
            numbers.add(_ORDINALS[token])
            plain.append(_ORDINALS[token])
        else:
            for part in token.split("-") if token not in _HYPHENATED else (token,):
                if part in _NUMBER_WORDS:
                    numbers.add(str(_NUMBER_WORDS[part]))
                    plain.append(str(_NUMBER_WORDS[part]))
                elif part:
                    plain.append(part.removesuffix("'s"))
    return Words(
        tuple(plain),
        tuple(stem(token) for token in plain if token not in _LIGHT),
        frozenset(numbers),
        frozenset(token.removesuffix("s") for token in plain if token in _TIMES or token.removesuffix("s") in _TIMES),
        sum(token in NEGATIONS for token in plain),
        _entities(text),
        frozenset(stem(token) for token in plain if token in _ROLES or token.removesuffix("s") in _ROLES),
        frozenset(token for token in plain if token in _ASKS),
        frozenset(token for token in plain if token in _COMPARING),
    )


def opposite(left: str, right: str) -> bool:
    """Whether two words say the contrary of each other: a known pair, or one is the other with a negating prefix."""
    if frozenset((left, right)) in _OPPOSITES:
        return True
    short, long = sorted((left, right), key=len)
    return len(short) > 3 and any(long == prefix + short for prefix in _PREFIXES)


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """Endings off: enough for singular and plural, and the forms of regular verbs."""
    for ending, least in (("ies", 3), ("ing", 4), ("ed", 4), ("es", 4), ("s", 3), ("ly", 4), ("e", 4)):
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith("ss"):
            cut = word[: -len(ending)]
            return cut + "y" if ending == "ies" else cut
    return word


@lru_cache(maxsize=8192)
def alike(left: str, right: str) -> float:
    """How alike two words are written, 0 to 1: 1 minus the edits (exchanged neighbours are one) over the length. 0
    where the lengths are far apart."""
    rows, columns = len(left), len(right)
    if not rows or not columns or abs(rows - columns) > max(rows, columns) // 3:
        return 0.0
    before, last = [0] * (columns + 1), list(range(columns + 1))
    for i in range(1, rows + 1):
        now = [i] + [0] * columns
        for j in range(1, columns + 1):
            same = left[i - 1] == right[j - 1]
            now[j] = min(last[j] + 1, now[j - 1] + 1, last[j - 1] + (not same))
            if i > 1 and j > 1 and left[i - 1] == right[j - 2] and left[i - 2] == right[j - 1]:
                now[j] = min(now[j], before[j - 2] + 1)
        before, last = last, now
    return 1.0 - last[columns] / max(rows, columns)


_HYPHENATED: Final = frozenset(word for pair in _OPPOSITES for word in pair if "-" in word)


def _expanded(text: str) -> str:
    out = []
    for word in text.split():
        bare = word.strip('.,!?;:"()')
        if bare in _IRREGULAR:
            out.append(_IRREGULAR[bare])
            continue
        if bare.endswith("'s") and bare[:-2] in ("what", "where", "who", "how", "when", "it", "that", "there", "here"):
            out.append(f"{bare[:-2]} is")
            continue
        for suffix, full in _SUFFIXES:
            if bare.endswith(suffix):
                bare = bare.removesuffix(suffix) + full
                break
        out.append(bare)
    return " ".join(out)


def _number(token: str) -> str:
    match = _NUMERIC.match(token)
    if match is None:
        return token
    value = float(match[2].replace(",", "") or 0)
    unit = match[3]
    if unit in ("k", "m") and match[1]:
        value *= 1000 if unit == "k" else 1_000_000
        unit = ""
    if unit in ("st", "nd", "rd", "th"):
        unit = ""
    return f"{match[1]}{value:g}{unit}"


def _entities(text: str) -> frozenset[str]:
    inner = text[1:]
    if text.isupper() or not any(char.isupper() for char in inner):
        return frozenset()
    found = set()
    for match in _ENTITY.finditer(text):
        name = match[0].rstrip(".'-").removesuffix("'s")
        begins = match.start() == 0 or text[: match.start()].rstrip()[-1:] in ".?!"
        if name in ("I", "I'm", "I've", "I'd", "I'll", "A") or (begins and name[1:].islower()):
            continue
        found.add(name.lower())
    return frozenset(found)
