"""The Pulse screen: boxes in their places."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from admin_tui.links import to_subject
from admin_tui.messages import Jump
from admin_tui.panel import Panel, Scene, set_height
from admin_tui.pulse import advice, cards, flow
from admin_tui.view import View

TREND: Final = "2 min"


class PulseView(View, can_focus=True):
    """Is all well, and if not, where."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "worst", "what is worst", id="pulse.worst", key_display="enter"),
    ]

    def compose(self) -> ComposeResult:
        """Cards, flow beside times, models, advisor."""
        with Horizontal(id="cards"):
            yield Panel(cards.output, id="card-output", title="tokens out /s, 10 s", subtitle=TREND)
            yield Panel(cards.ttft, id="card-ttft", title="first token p95, 10 s", subtitle=TREND)
            yield Panel(cards.itl, id="card-itl", title="next token p95, 10 s", subtitle=TREND)
            yield Panel(cards.pages, id="card-pages", title="KV pages in use, now", subtitle=TREND)
        with Horizontal(id="middle"):
            yield Panel(flow.flow, id="flow", title="flow, 10 s")
            yield Panel(flow.times, id="times", title="where time goes, 10 s: p50, p95")
        yield Panel(flow.models, id="pulse-models", title="models, 10 s")
        with Horizontal(id="low"):
            yield Panel(advice.advisor, id="advisor", title="advisor")
            yield Panel(advice.processes, id="processes", title="processes")

    def draw(self, scene: Scene) -> None:
        """Draw all boxes."""
        set_height(self.query_one("#pulse-models", Panel), min(9, 3 + max(1, len(scene.world.models))))
        for panel in self.query(Panel):
            panel.show(scene)

    def action_worst(self) -> None:
        """To what the first finding is about."""
        findings = self.scene.world.findings if self.scene else ()
        link = to_subject(self.scene.world, findings[0].subject) if self.scene and findings else None
        if link is None:
            self.notify("no finding that has a screen", markup=False)
        else:
            self.post_message(Jump(link))
