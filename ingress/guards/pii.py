"""Personal data that has a shape: addresses of e-mail and IP, numbers of phones, cards, accounts and people. Patterns
find candidates, check digits and ranges decide.

Only ASCII is looked at: an address with an accent in it, or digits of another script, are not found.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ingress.guards.checksums import IBAN_LENGTH, group_ends, luhn, mod97, ssn
from ingress.guards.scan import Kind

# Each begins with a set of characters, and looks back only then: so the search skips to these.
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9](?<![A-Za-z0-9._%+-].)[A-Za-z0-9._%+-]{0,63}+@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,4}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_IPV4: Final = re.compile(r"[0-9](?<![\w.].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
_IPV6: Final = re.compile(
    r"[0-9A-Fa-f:](?<![\w:.].)[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])"
)
_SSN: Final = re.compile(r"[0-9](?<![\w-].)[0-9]{2}([ -])[0-9]{2}\1[0-9]{4}(?![\w]|-[0-9])")
_CARD: Final = re.compile(r"[1-6](?<!\w.)(?<![0-9]\..)[0-9]{3}(?:[ -]?[0-9]){8,15}(?![0-9])")
_IBAN: Final = re.compile(
    r"[A-Za-z](?<!\w.)(?:(?<=[A-Z])[A-Z][0-9]{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?"
    r"|[A-Za-z][0-9]{2}[A-Za-z0-9]{11,30})(?!\w)"
)
_DIALLED: Final = (
    r"(?:(?<=[+(])[0-9]|(?<=[0-9]))(?:(?:[ ./-]|\)[ -]?|[ -]?\()?[0-9]){6,14}(?:x[0-9]{1,5})?(?!\w|[-./,:][0-9])"
)
_PHONE: Final = re.compile(r"[+(0-9](?<![\w./].)(?<![0-9][,-].)" + _DIALLED)
_LONE_PHONE: Final = re.compile(r"[0-9](?<![\w./].)(?<![0-9][ ,-].)" + _DIALLED)

_CARD_SHAPE: Final = re.compile(
    r"[0-9]+|[0-9]{4}([ -])(?:[0-9]{4}\1){2}[0-9]{4}(?:\1[0-9]{3})?|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5}"
)
# Issuers: Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay, Maestro.
_ISSUER: Final = re.compile(r"4|5[0-8]|2[2-7]|2131|1800|3[0456789]|6[0-9]")
_SHORT_ISSUER: Final = re.compile(r"5018|5020|5038|5[678]|6")  # Maestro: fewer than 13 digits
_DATE: Final = re.compile(r"[0-9]{4}([-./ ])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-./ ])[0-9]{1,2}\2[0-9]{4}")
_YEARS: Final = re.compile(r"(?:19|20)[0-9]{2}[- ](?:19|20)[0-9]{2}")


def _ipv4(text: str) -> int:
    octets = text.split(".")
    return len(text) if all(int(one) < 256 and (one[0] != "0" or one == "0") for one in octets) else 0


def _ipv6(text: str) -> int:
    groups = [group for group in text.split(":") if group]
    if len(groups) < 2 or not any(character.isdigit() for character in text):
        return 0  # `abc::def` is one too, and in programs more often something else
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return 0
    return len(text)


def _ssn(text: str) -> int:
    return len(text) if ssn(text[:3], text[4:6], text[7:]) else 0


def _card(text: str) -> int:
    for end in group_ends(text, range(12, 20)):
        digits = "".join(_GROUP.findall(text[:end]))
        issuer = _SHORT_ISSUER if len(digits) < 13 else _ISSUER
        if issuer.match(digits) and _CARD_SHAPE.fullmatch(text, 0, end) and luhn(digits):
            return end
    return 0


def _iban(text: str) -> int:
    wanted = IBAN_LENGTH.get(text[:2].upper(), 0)
    end = count = 0
    while end < len(text) and count < wanted:
        count += text[end] != " "
        end += 1
    whole = end == len(text) or text[end] == " "
    return end if wanted and count == wanted and whole and mod97(text[:end].replace(" ", "").upper()) else 0


def _phone(text: str) -> int:
    if (extension := text.find("x")) > 0:
        return len(text) if _is_phone(text[:extension]) else 0
    for end in group_ends(text, range(7, 16)):
        if _is_phone(text[:end]):
            return end
    return 0


def _is_phone(text: str) -> bool:
    """Whether digits in groups look like a number that somebody dials, and not like a date, a range or an amount."""
    sizes = [len(group) for group in _GROUP.findall(text)]
    first = text[0]
    if first in "+(":
        return text.count("(") == text.count(")") and (
            sum(sizes) >= 8 if first == "+" else max(sizes) <= 8 and min(sizes) >= 2 and "/" not in text
        )
    if len(sizes) == 1:  # ten digits of the North American plan: neither area nor exchange begins with 0 or 1
        return sizes[0] == 10 and first in "23456789" and text[3] in "23456789"
    if sizes not in _GROUPED:
        return False
    separators = set(_SEPARATOR.findall(text))
    return separators in ({"-"}, {" "}, {"."}) and (len(sizes) > 2 or separators == {"-"})


def _lone_phone(text: str) -> int:
    """Digits in groups that are usual, with nothing else that says so, and no other number beside."""
    groups = _GROUP.findall(text)
    sizes = [len(group) for group in groups]
    separators = set(_SEPARATOR.findall(text))
    if _DATE.fullmatch(text) or _YEARS.fullmatch(text):
        return 0
    if text[0] == "0" and 8 <= sum(sizes) <= 11 and len(sizes) > 1 and min(sizes) >= 2 and sizes != [3, 2, 4]:
        return len(text)  # a national prefix
    if len(separators) != 1 or groups[-1].strip("0") == "":
        return 0
    by_space = sizes in ([4, 4], [3, 4], [3, 3, 3], [2, 3, 3], [3, 2, 3], [4, 3, 3], [4, 2, 2, 2])
    by_dash = sizes in ([2, 2, 2, 2], [2, 2, 2, 2, 2])
    return len(text) if (by_space and separators == {" "}) or (by_dash and separators == {"-"}) else 0


_GROUP: Final = re.compile("[0-9]+")
_SEPARATOR: Final = re.compile("[^0-9]")
_GROUPED: Final = ([3, 3, 4], [2, 3, 3, 4], [1, 3, 3, 4], [3, 4])

KINDS: Final = (
    Kind("EMAIL", _EMAIL, 345, spark="@", hint=re.compile("@")),
    Kind("IBAN", _IBAN, 43, _iban, spark="[0-9]", hint=re.compile(r"[0-9](?<=[A-Za-z]{2}.)[0-9]")),
    Kind("CARD", _CARD, 34, _card, spark="[0-9]"),
    Kind("SSN", _SSN, 11, _ssn, spark="[0-9]"),
    Kind("IP", _IPV4, 15, _ipv4, spark="[0-9]"),
    Kind("IP", _IPV6, 39, _ipv6, spark="[0-9]", hint=re.compile(":[0-9A-Fa-f]{0,4}:")),
    Kind("PHONE", _PHONE, 51, _phone, spark="[0-9]"),
    Kind("PHONE", _LONE_PHONE, 51, _lone_phone, spark="[0-9]"),
)
