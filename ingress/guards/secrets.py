"""Secrets that have a shape: keys of known services, private keys, signed tokens, and assignments whose value looks
drawn at random.

Prefixes are the issuers' own, made so that such a search finds them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

from ingress.guards.scan import Kind

# Each begins with a set of characters, and looks back only then: so the search skips to these.
_KEY: Final = re.compile(
    r"[Adghnprswxy0-9GS](?<![A-Za-z0-9_].)(?:"
    r"k-(?:proj-|svcacct-|admin-|ant-(?:api|admin)[0-9]{2}-|or-v1-)?[A-Za-z0-9_-]{20}"  # OpenAI, Anthropic, OpenRouter
    r"|(?:KIA|SIA)[0-9A-Z]{16}"  # AWS
    r"|h[pousr]_[A-Za-z0-9]{36}|ithub_pat_[A-Za-z0-9_]{22}|lpat-[A-Za-z0-9_-]{20}"  # GitHub, GitLab
    r"|ox[abeoprs]-[A-Za-z0-9-]{10}|app-[0-9]-[A-Za-z0-9-]{10}"  # Slack
    r"|Iza[A-Za-z0-9_-]{35}|a29\.[A-Za-z0-9_-]{20}|OCSPX-[A-Za-z0-9_-]{20}"  # Google
    r"|k_(?:live|test)_[0-9A-Za-z]{16}|hsec_[A-Za-z0-9]{24}"  # Stripe
    r"|f_[A-Za-z0-9]{30}|pm_[A-Za-z0-9]{36}|ypi-AgE[A-Za-z0-9_-]{40}|op_v1_[a-f0-9]{64}|hpat_[a-fA-F0-9]{32}"
    r"|G\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16}|[0-9]{7,9}:AA[A-Za-z0-9_-]{33}|r-[A-Za-z0-9_-]{32}"
    r")"
)
_PRIVATE: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_END: Final = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_JWT: Final = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,200}\.eyJ[A-Za-z0-9_-]{4}")
_ASSIGNED: Final = re.compile(
    r"[AaCcPpSsTt](?i:assw(?:or)?d|assphrase|wd|ecret|oken|redential|pi[_-]?key|ccess[_-]?key|uth[_-]?key|rivate[_-]?key)"
    r"[A-Za-z0-9_]{0,16}[\"']?[ ]?[:=]{1,2}[ ]?[\"'`]?(?P<value>[!#$%*+./0-9:=?@A-Z^_a-z|~-]{8,64})"
)
# A word, or several: a text about tokens is no secret.
_WORDS: Final = re.compile(r"[A-Za-z]+(?:[-_./][A-Za-z]+)*[.:!?]?")
_BITS: Final = 2.8  # of entropy a character; "correcthorse" has 2.9, and is a word to `_WORDS`


def entropy(text: str) -> float:
    """Bits a character, by how often each is there."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _random(value: str) -> int:
    return len(value) if not _WORDS.fullmatch(value) and entropy(value) >= _BITS and any(map(str.isalnum, value)) else 0


_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]*+")
_LONG: Final = re.compile(r"[A-Za-z0-9_.:-]{15}")  # the shortest key, of Slack: what has none as long needs no search

_VALUE: Final = re.compile(r"[!#$%*+./0-9:=?@A-Z^_a-z|~-]*+")

KINDS: Final = (
    Kind("PRIVATE_KEY", _PRIVATE, 75, spark="-", hint=re.compile("-----BEGIN"),
         tail=re.compile(r"[A-Za-z0-9+/=\s:,\\-]*+"), closer=_PRIVATE_END),
    Kind("JWT", _JWT, 216, spark="yJ", hint=re.compile("eyJ"), tail=re.compile(r"[A-Za-z0-9_.-]*+")),
    Kind("API_KEY", _KEY, 71, spark="-|_|AKI|ASI|AIz|ya29|SG|:A", hint=_LONG, tail=_TOKEN),
    Kind("ASSIGNMENT", _ASSIGNED, 107, _random, spark=":|=", tail=_VALUE, loose=True),
)  # fmt: skip
