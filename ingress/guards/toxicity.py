"""How abusive a text is: alt-profanity-check's linear model where it is installed (`headrace[toxicity]`), else a short
list of insults and threats, which says 1 or 0.

Neither knows irony, quotation, or any language but English.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ingress.guards.phrases import Phrases

LEXICON: Final = (
    "kill yourself", "kys", "go die", "i will kill you", "i am going to kill you", "hope you die", "you should die",
    "fuck you", "fuck off", "motherfucker", "fucking idiot", "piece of shit", "asshole", "dickhead", "cunt", "bitch",
    "bastard", "son of a bitch", "shithead", "bullshit", "you are worthless", "you are an idiot", "you are stupid",
    "shut the fuck up", "retard", "retarded", "scumbag", "moron", "imbecile", "degenerate", "subhuman", "vermin",
    "whore", "slut", "wanker", "prick", "twat", "jackass", "dumbass", "dipshit",
)  # fmt: skip


def scorer(more: Sequence[str] = ()) -> Callable[[str], float]:
    """A function from a text to 0..1; `more` are phrases that count in any case."""
    try:
        from profanity_check import predict_prob
    except ImportError:
        phrases = Phrases([*LEXICON, *more])
        return lambda text: 1.0 if phrases.search(text) else 0.0
    extra = Phrases(more)
    return lambda text: 1.0 if extra.search(text) else float(predict_prob([text])[0])
