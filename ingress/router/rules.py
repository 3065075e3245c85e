"""The operator's conditions: which calls go where, whatever weights and scores say. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bus.config.routes import RuleConfig
from ingress.router.candidate import Asked

LOOKED_AT = 8192  # characters of a message that patterns are looked for in: the end of it


class Rule:
    """One of them, ready to be asked."""

    def __init__(self, config: RuleConfig) -> None:
        self.name, self.models = config.name, config.models
        self._config = config
        self._contains = re.compile(config.contains) if config.contains else None

    def holds(self, asked: Asked) -> bool:
        """Whether all of its conditions do."""
        config = self._config
        if (least := config.prompt_tokens_above) is not None and asked.prompt_tokens <= least:
            return False
        if (most := config.prompt_tokens_below) is not None and asked.prompt_tokens >= most:
            return False
        if config.needs and not any(capability in asked.needs for capability in config.needs):
            return False
        if config.projects and asked.project not in config.projects:
            return False
        if config.surfaces and asked.surface not in config.surfaces:
            return False
        return self._contains is None or self._contains.search(asked.text[-LOOKED_AT:]) is not None


def first(rules: Sequence[Rule], asked: Asked) -> Rule | None:
    """The one that holds."""
    return next((rule for rule in rules if rule.holds(asked)), None)
