"""What a number must fulfil to be what it looks like: check digits and ranges that were never given out. Pure."""

from __future__ import annotations

import re
from typing import Final

_LUHN: Final = bytes(2 * digit if digit < 5 else 2 * digit - 9 for digit in range(10))

# Length of an IBAN by country, of the registry's release 99 (SWIFT, 2024).
IBAN_LENGTH: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: every second digit from the right counts twice."""
    values = list(map(int, digits))
    return (sum(values[-1::-2]) + sum(_LUHN[value] for value in values[-2::-2])) % 10 == 0


def mod97(iban: str) -> bool:
    """ISO 7064 of an IBAN without spaces, in capitals."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def ssn(area: str, group: str, serial: str) -> bool:
    """Whether the administration could have given it out: 000, 666 and 9xx never were areas, nor 00 and 0000 the
    rest."""
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def group_ends(text: str, accepted: range) -> list[int]:
    """Where `text`, digits in groups, may end so that it has a number of digits in `accepted`: the longest first."""
    ends: list[int] = []
    count = 0
    for group in _GROUP.finditer(text):
        count += group.end() - group.start()
        if count in accepted:
            ends.append(group.end())
    return ends[::-1]


_GROUP: Final = re.compile("[0-9]+")
