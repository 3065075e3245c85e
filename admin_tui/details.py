"""What one screen shows beyond the feed: the latest answer to each question, and how old it is. Pure."""

from __future__ import annotations

from typing import Final, Literal

from bus.messages.details import AllowancesReply, BusReply, HostReply, ModelsReply, PagesReply, StepsReply
from bus.messages.usage import UsageReply

Detail = StepsReply | PagesReply | HostReply | BusReply | ModelsReply | UsageReply | AllowancesReply
DetailKind = Literal["steps", "pages", "host", "bus", "models", "usage", "allowances"]
DETAILS: Final[dict[DetailKind, type[Detail]]] = {
    "steps": StepsReply, "pages": PagesReply, "host": HostReply, "bus": BusReply, "models": ModelsReply,
    "usage": UsageReply, "allowances": AllowancesReply,
}  # fmt: skip


class Details:
    """The latest answer to each question of a detail screen, and when it came; None before one did."""

    def __init__(self) -> None:
        self.steps: StepsReply | None = None
        self.pages: PagesReply | None = None
        self.host: HostReply | None = None
        self.bus: BusReply | None = None
        self.models: ModelsReply | None = None
        self.usage: UsageReply | None = None
        self.allowances: AllowancesReply | None = None
        self._heard: dict[DetailKind, int] = {}

    def take(self, detail: Detail, now_ns: int) -> None:
        """An answer came."""
        match detail:
            case StepsReply():
                self.steps = detail
            case PagesReply():
                self.pages = detail
            case HostReply():
                self.host = detail
            case BusReply():
                self.bus = detail
            case ModelsReply():
                self.models = detail
            case UsageReply():
                self.usage = detail
            case AllowancesReply():
                self.allowances = detail
        self._heard[detail_kind(detail)] = now_ns

    def age_s(self, kind: DetailKind, now_ns: int) -> float:
        """Seconds since the answer came; -1 where none did."""
        heard = self._heard.get(kind)
        return -1.0 if heard is None else max(0.0, (now_ns - heard) / 1e9)

    @property
    def complete(self) -> bool:
        """Whether every question was answered."""
        return len(self._heard) == len(DETAILS)


def detail_kind(detail: Detail) -> DetailKind:
    """Which question it answers."""
    return next(kind for kind, type_ in DETAILS.items() if isinstance(detail, type_))
