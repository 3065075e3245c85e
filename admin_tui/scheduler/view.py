"""The Scheduler screen: one model at a time; what bounds it above, its steps below."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from admin_tui.details import DetailKind
from admin_tui.draw import Box, cut
from admin_tui.links import to_process, to_request
from admin_tui.messages import Jump
from admin_tui.panel import Draw, Panel, Scene, set_height
from admin_tui.scheduler import bounds
from admin_tui.scheduler import rows as step_rows
from admin_tui.table import LiveTable
from admin_tui.text import count, duration, rate, sanitize
from admin_tui.view import View
from bus.messages.details import ModelSteps

MOST_BOUNDS: Final = 8  # lines of the box of bounds


class SchedulerView(View):
    """Why is it not faster?"""

    QUESTIONS: ClassVar[tuple[DetailKind, ...]] = ("steps",)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "next_model", "next model", id="scheduler.model"),
        Binding("enter", "request", "request in the step", id="scheduler.request", key_display="enter"),
        Binding("g", "process", "its process", id="scheduler.process"),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._model = ""

    def compose(self) -> ComposeResult:
        """Bounds; parts and trend; queues, limits and replicas; steps."""
        age = self._age_s
        yield Panel(self._of(bounds.lines), id="bounds", age=age)
        with Horizontal(id="step-times"):
            draw_parts = self._of(step_rows.parts)
            yield Panel(draw_parts, id="parts", title="where a step's time goes: p50, p95", age=age)
            draw_trend = self._of(step_rows.trend)
            yield Panel(draw_trend, id="step-trend", title="how long steps ran", subtitle="p: with a prompt", age=age)
        with Horizontal(id="shapes"):
            yield Panel(self._of(step_rows.queues), id="queues", title="queues", age=age)
            draw_knobs = self._of(step_rows.knobs)
            yield Panel(draw_knobs, id="knobs", title="limits", age=age)
            draw_replicas = self._of(step_rows.replicas)
            yield Panel(draw_replicas, id="replicas", title="replicas", age=age)
        yield LiveTable(step_rows.COLUMNS, step_rows.SORTS, id="steps-table")

    def draw(self, scene: Scene) -> None:
        """The chosen model."""
        steps = step_rows.steps_of(scene, self._model)
        panel = self.query_one("#bounds", Panel)
        if steps is None:
            panel.entitle("why is it not faster?", "")
        else:
            names = step_rows.model_names(scene)
            which = f", {names.index(steps.model) + 1} of {len(names)}" if len(names) > 1 else ""
            panel.entitle(f"why is {steps.model} not faster? {bounds.window(steps)}", self._summary(steps, which))
            drawn = bounds.lines(steps, Box(self.size.width - 4, MOST_BOUNDS, scene.glyphs))
            set_height(panel, 2 + min(len(drawn), MOST_BOUNDS))
        for each in self.query(Panel):
            each.show(scene)
        table = self.query_one(LiveTable)
        table.fill(step_rows.rows(steps, table.look), self.app.size.width)

    def action_next_model(self) -> None:
        """Look at the next model."""
        if self.scene is not None and (names := step_rows.model_names(self.scene)):
            at = names.index(self._model) if self._model in names else 0
            self.point_at(names[(at + 1) % len(names)])

    def point_at(self, subject: str) -> bool:
        """Look at this model, or at this step of the one in view."""
        if self.scene is None or subject not in step_rows.model_names(self.scene):
            return super().point_at(subject)
        self._model = subject
        self.draw(self.scene)
        return True

    def on_live_table_chosen(self) -> None:
        """Enter on a step."""
        self.action_request()

    def action_request(self) -> None:
        """To the request whose prompt is the largest part of the step."""
        steps = step_rows.steps_of(self.scene, self._model) if self.scene else None
        current = self.query_one(LiveTable).current()
        line = next((line for line in steps.lines if step_rows.key(line) == current), None) if steps else None
        if line is None or not line.chunks:
            self.notify("no prompt in this step: its rows all decode", markup=False)
        else:
            self.post_message(Jump(to_request(max(line.chunks, key=lambda chunk: chunk[1])[0])))

    def action_process(self) -> None:
        """To the scheduler's process."""
        steps = step_rows.steps_of(self.scene, self._model) if self.scene else None
        if steps is not None:
            self.post_message(Jump(to_process(steps.scheduler)))

    def _age_s(self, scene: Scene) -> float:
        return step_rows.age_s(scene, self._model)

    def _of(self, draw: Callable[[ModelSteps, Box], list[Text]]) -> Draw:
        """Draws the chosen model, or says what is missing."""

        def drawn(scene: Scene, width: int, height: int) -> list[Text]:
            steps = step_rows.steps_of(scene, self._model)
            if steps is None:
                return [Text("no scheduler told of steps yet" if scene.world.details.steps else "asking for it")]
            return cut(draw(steps, Box(width, height, scene.glyphs)), height)

        return drawn

    def _summary(self, steps: ModelSteps, which: str) -> str:
        look = self.query_one(LiveTable).look.describe()
        return (
            f"{rate(steps.steps_per_s)} steps/s, p50 {duration(steps.step_p50_s)}, p95 {duration(steps.step_p95_s)}, "
            f"{count(steps.total)} in all{sanitize(which)} | {look}"
        )
