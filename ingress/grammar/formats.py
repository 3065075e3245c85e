"""Formats as expressions, where the library that follows schemas has none, or one that lets too much through. Pure.

Each allows some of what its document does, and nothing else: of time no leap seconds, which only some minutes have, and
of what may have letters of every script (`idn-…`, `iri…`) what is in ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# RFC 3339: years from 1, and the 29th of February in leap years.
_YEAR: Final = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP: Final = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE: Final = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_TIME: Final = (
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)

# RFC 6901, the draft of relative pointers, RFC 3986 (references without an authority), RFC 6570.
_POINTER: Final = "(?:/(?:[^~/]|~[01])*)*"
_SEGMENT: Final = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_NO_COLON: Final = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=@]|%[0-9A-Fa-f]{2})"
_AFTER: Final = rf"(?:\?(?:{_SEGMENT}|[/?])*)?(?:#(?:{_SEGMENT}|[/?])*)?"
_RELATIVE: Final = rf"(?:/(?:{_SEGMENT}+(?:/{_SEGMENT}*)*)?|{_NO_COLON}+(?:/{_SEGMENT}*)*)?{_AFTER}"
_NAME: Final = r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*(?::[1-9][0-9]{0,3}|\*)?"
_TEMPLATE: Final = rf"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&()*+,;=]|%[0-9A-Fa-f]{{2}}|\{{[+#./;?&]?{_NAME}(?:,{_NAME})*\}})*"
# Labels without two hyphens in a row: those that begin as in `xn--` stand for others.
_LABEL: Final = "[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,30}"


def _text(expression: str) -> dict[str, Any]:
    return {"pattern": f"^(?:{expression})$"}


_REFERENCE: Final = [{"format": "uri"}, _text(_RELATIVE)]
WRITTEN: Final[Mapping[str, list[dict[str, Any]]]] = {
    "date": [_text(_DATE)],
    "time": [_text(_TIME)],
    "date-time": [_text(f"{_DATE}[tT]{_TIME}")],
    "idn-email": [{"format": "email"}],
    "idn-hostname": [_text(rf"{_LABEL}(?:\.{_LABEL}){{0,3}}")],
    "iri": [{"format": "uri"}],
    "iri-reference": _REFERENCE,
    "uri-reference": _REFERENCE,
    "uri-template": [_text(_TEMPLATE)],
    "json-pointer": [_text(_POINTER)],
    "relative-json-pointer": [_text(f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})")],
}
"""By name, the ways in which a text may be written: one of them."""
