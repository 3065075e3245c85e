"""Is a model ready, and does its work get on? From what its scheduler said last, and when it said anything. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from ingress.models import ServedModel

SILENT_NS: Final = 4_000_000_000  # a scheduler's main loop beats twice a second, whatever its workers do


class ModelHealth(NamedTuple):
    """One model, now.

    Attributes:
        live: its scheduler answers.
        trouble: why it is not ready, or why not all of its replicas are; empty where all are.
        stuck: what keeps its work from getting on; empty where it does, or there is none.
    """

    live: bool
    ready: bool
    replicas_ready: int
    replicas: int
    trouble: str
    stuck: str
    stuck_s: float

    @property
    def progressing(self) -> bool:
        """Whether nothing stands still."""
        return not self.stuck


def health(model: ServedModel, scheduler: str, silent_ns: int, now_ns: int) -> ModelHealth:
    """What is known of it.

    Args:
        silent_ns: since its scheduler was heard.
    """
    facts = model.facts
    if not model.up or facts is None:
        why = f"{scheduler} is not there"
        return ModelHealth(False, False, 0, facts.replicas if facts is not None else 0, why, why, 0.0)
    if silent_ns > SILENT_NS:
        why = f"{scheduler} does not answer"
        return ModelHealth(False, False, 0, facts.replicas, why, why, silent_ns / 1e9)
    stuck_s = max(0.0, (now_ns - facts.stuck_ns) / 1e9) if facts.stuck_ns else 0.0
    ready = facts.replicas_ready
    return ModelHealth(True, ready > 0, ready, facts.replicas, facts.trouble, facts.stuck, stuck_s)
