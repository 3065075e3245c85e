"""Which questions may be matched by meaning, and what the rest of their conversation is. Pure.

Everything but the last turn must be the same, bit by bit: a question means what it means after what was said before.
Some questions have another answer tomorrow, or for another person; those are never matched, nor kept to be matched.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ingress.api.schema_chat import ChatRequest, UserMessage

LONGEST: Final = 600  # characters of a question
SHORTEST: Final = 8
_HISTORY_BYTES: Final = 1 << 20

_TIME: Final = re.compile(
    r"\b(now|nowadays|currently|current|today|tonight|tomorrow|yesterday|latest|recent|recently|newest|at the moment|"
    r"right now|this (week|month|year|morning|afternoon|evening|season)|(next|last) (week|month|year|night|train|bus)|"
    r"so far|up to date|news|weather|forecast|price of|stock|exchange rate|score|what time is it|the date)\b"
)
_ACCOUNT: Final = re.compile(
    r"\b(my|our) (\w+ )?(order|orders|balance|account number|invoice|bill|parcel|delivery|package|booking|reservation|"
    r"appointment|subscription status|ticket|claim|refund|payment|statement|password|address|number|name|email)\b|"
    r"\bwhere is my\b|\bwho am i\b|\bremember\b|\bi (said|told|asked|mentioned)\b|\b(above|previous|earlier) "
    r"(message|answer|question)\b"
)
_CODE: Final = re.compile(
    r"```|[{}<>]|\b(def|class|import|return|SELECT|function|const|#include)\b|://|[\w.]+@[\w.]+|[;=]{1,2}\s"
)
_AGAIN: Final = re.compile(
    r"^(again|more|continue|go on|another|retry|regenerate|yes|no|ok|okay|thanks|and|why)\b[ .?!]*$"
)
_LETTER: Final = re.compile(r"[A-Za-z\s]", re.ASCII)


def question(request: ChatRequest) -> str | None:
    """The last turn, where it may be matched; None where it may not."""
    last = request.messages[-1]
    if not isinstance(last, UserMessage) or not isinstance(last.content, str):
        return None
    if request.continue_final_message or request.add_generation_prompt is False:
        return None
    text = last.content.strip()
    return text if not excluded(text) else None


def excluded(text: str) -> str:
    """Why a question is never matched; empty where it may be."""
    if not SHORTEST <= len(text) <= LONGEST or "\n" in text:
        return "length"
    low = text.lower()
    if _CODE.search(text):
        return "code"
    if _TIME.search(low):
        return "time"
    if _ACCOUNT.search(low):
        return "account"
    if _AGAIN.match(low):
        return "depends"
    if len(_LETTER.findall(text)) < 0.6 * len(text):
        return "language"  # guards and verifier know English only
    return ""


def history(request: ChatRequest) -> bytes | None:
    """Everything of a conversation but the text of its last turn; None where it is too long to be looked at."""
    *before, last = request.messages
    assert isinstance(last, UserMessage)
    rest = (before, msgspec.structs.replace(last, content=""), request.chat_template_kwargs)
    data = msgspec.json.encode(rest)
    return data if len(data) <= _HISTORY_BYTES else None
