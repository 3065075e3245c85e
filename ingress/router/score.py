"""Whether the small model will do, by the prompt alone, where that can be told. Pure."""

from __future__ import annotations

from typing import Literal

from bus.config.routes import ScoreConfig
from bus.prompt_score import Calibration

Verdict = Literal["small", "large", "unsure"]


class Score:
    """A calibration with its threshold. Close to that it abstains: there a prompt says nothing."""

    def __init__(self, config: ScoreConfig, calibration: Calibration) -> None:
        self._calibration, self._band = calibration, config.band
        self._threshold = config.threshold or calibration.threshold

    def verdict(self, text: str) -> Verdict:
        """Of the newest message of a user."""
        above = self._calibration.probability(text) - self._threshold
        if abs(above) < self._band:
            return "unsure"
        return "small" if above >= 0 else "large"
