"""How probable it is, by a prompt alone, that a small model answers it as well as a large one: logistic regression on a
dozen numbers that are read off the text. Pure.

Here because two processes must read a prompt alike: `headrace router calibrate` fits the weights, the ingress asks
them. A prompt says little about how hard it is, so a file also holds what its score was worth on questions that it had
not seen (`Worth`), and nobody should use one without looking at that.
"""

from __future__ import annotations

import math
import re
from typing import Final

import msgspec

FORMAT: Final = 1
LOOKED_AT: Final = 8192  # characters of a prompt: its end, where the question mostly is

_WORD: Final = re.compile(r"[^\W\d_]+")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_CHOICE: Final = re.compile(r"^\s*\(?[A-D][.):]\s", re.MULTILINE)
_CODE: Final = re.compile(r"[{}<>;=\[\]`]")
_MATHS: Final = re.compile(r"[+*/^=%$√∑∫≤≥]")
_WHY: Final = re.compile(r"\b(?:why|how|explain|prove|derive|compare|analy[sz]e|calculate|determine)\b", re.IGNORECASE)
_SIMPLE: Final = re.compile(r"\b(?:who|when|where|which|what is|name|list|translate|spell)\b", re.IGNORECASE)
_NOT: Final = re.compile(r"\b(?:not|never|except|least|no)\b", re.IGNORECASE)

FEATURES: Final = (
    "log_characters", "log_words", "word_length", "numbers", "code", "maths", "choices", "questions", "lines", "why",
    "simple", "negations",
)  # fmt: skip


def features(text: str) -> tuple[float, ...]:
    """What is read off a prompt: one number for each of `FEATURES`, all of about the same size."""
    text = text[-LOOKED_AT:]
    words = _WORD.findall(text)
    characters, count = max(1, len(text)), max(1, len(words))
    return (
        math.log(characters),
        math.log(count),
        sum(map(len, words)) / count,
        math.log1p(len(_NUMBER.findall(text))),
        100 * len(_CODE.findall(text)) / characters,
        100 * len(_MATHS.findall(text)) / characters,
        float(min(4, len(_CHOICE.findall(text)))),
        math.log1p(text.count("?")),
        math.log1p(text.count("\n")),
        math.log1p(len(_WHY.findall(text))),
        math.log1p(len(_SIMPLE.findall(text))),
        math.log1p(len(_NOT.findall(text))),
    )


class Worth(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration is worth on prompts that it was not made from.

    Attributes:
        rows: labelled prompts.
        small_ok: share of them that the small model answers as well.
        auc: probability that a prompt that the small one can answer has the higher score of two; 0.5 is chance.
        auc_low, auc_high: 95 % confidence.
        length_auc: the same for the length of the prompt alone.
    """

    rows: int
    small_ok: float
    auc: float
    auc_low: float
    auc_high: float
    length_auc: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of `headrace router calibrate`.

    Attributes:
        features: names, in the order of the weights.
        mean, scale: of each feature; the weights are for the feature less its mean, by its scale.
        threshold: from this probability on the small model is asked.
    """

    format: int
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float
    worth: Worth

    def probability(self, text: str) -> float:
        """That the small model answers as well."""
        read = zip(features(text), self.mean, self.scale, self.weights, strict=True)
        total = self.bias + sum((value - mean) / scale * weight for value, mean, scale, weight in read)
        # The two ways to write the same, each where it cannot overflow.
        return 1 / (1 + math.exp(-total)) if total > 0 else math.exp(total) / (1 + math.exp(total))


class BadCalibration(ValueError):
    """Not a calibration of this release."""


def load(data: bytes) -> Calibration:
    """A calibration, from its file.

    Raises:
        BadCalibration: see there.
    """
    try:
        found = msgspec.json.decode(data, type=Calibration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadCalibration(f"not a calibration: {error}") from None
    sizes = {len(found.mean), len(found.scale), len(found.weights)}
    if found.format != FORMAT or found.features != FEATURES or sizes != {len(FEATURES)}:
        raise BadCalibration("made by another release: run headrace router calibrate again")
    if min(found.scale) <= 0:
        raise BadCalibration("not a calibration: a scale is not above 0")
    return found
