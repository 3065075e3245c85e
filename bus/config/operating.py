"""What an operator sees and may do: metrics, alarms, traces, logs, who acts, the flight recorder, units."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from bus.config.section import ConfigError, Positive, Problem, Section, parse_size, unless

RECORDING: Final = (64 << 10, 1 << 30)  # least and most of a recording


class MetricsConfig(Section, frozen=True):
    """`[metrics]`: what is kept.

    Attributes:
        timelines: requests whose timeline is kept.
    """

    timelines: Positive = 2000


class AlarmsConfig(Section, frozen=True):
    """From where on an operator should know. 0 is never.

    Attributes:
        ttft_s: p95 of the times to the first token, over ten seconds.
        inter_token_s: p95 of the times between tokens.
        queue_wait_s: age of the request that waits longest for a slot.
    """

    ttft_s: Annotated[float, Meta(ge=0)] = 30.0
    inter_token_s: Annotated[float, Meta(ge=0)] = 1.0
    queue_wait_s: Annotated[float, Meta(ge=0)] = 60.0


class TracesConfig(Section, frozen=True):
    """`[traces]`: spans of requests for an OpenTelemetry collector. Needs `pip install headrace[otel]`.

    Attributes:
        endpoint: base URL of its OTLP/HTTP receiver, for example `http://127.0.0.1:4318`; empty sends nothing.
        sample: share of the requests that are traced, of those whose client does not say.
    """

    endpoint: str = ""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0


class LogConfig(Section, frozen=True):
    """`[log]`: what processes write to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"


class AdminConfig(Section, frozen=True):
    """`[admin]`: who beside root and the stack's own user may look, and who may act.

    Attributes:
        group: its members may do everything that an operator can: drain, restart, cancel, limit.
        viewers: its members see everything and change nothing.
    """

    group: str = "headrace-admin"
    viewers: str = "headrace-bus"


class BlackboxConfig(Section, frozen=True):
    """`[blackbox]`: the flight recorder, and crash reports.

    Attributes:
        size: of the memory that each process records into; "0" records nothing.
        incarnations: recordings kept of a process, that of the living one included.
        content: record prompts, answers and token ids too.
        crashes: crash reports that are kept; 0 writes none.
    """

    size: str = "4MiB"
    incarnations: Annotated[int, Meta(ge=1, le=100)] = 3
    content: bool = False
    crashes: Annotated[int, Meta(ge=0, le=1000)] = 10


class SystemdConfig(Section, frozen=True):
    """`[systemd]`: what `headrace systemd install` writes into the units.

    Attributes:
        pin: "auto" gives every rank cores of its own, on one NUMA node, where there are enough for all; "off" leaves
            them to the kernel.
    """

    pin: Literal["auto", "off"] = "auto"


def problems(traces: TracesConfig, blackbox: BlackboxConfig) -> Iterator[Problem]:
    """What types cannot say."""
    yield from unless(_parse_recording, blackbox.size, ("blackbox", "size"))
    if not re.fullmatch(r"(https?://\S+)?", traces.endpoint):
        yield ("traces", "endpoint"), "expected the URL of an OTLP/HTTP receiver, as http://127.0.0.1:4318"


def _parse_recording(text: str) -> None:
    size, (least, most) = parse_size(text), RECORDING
    if size and not least <= size <= most:
        raise ConfigError(f'{text!r} is not from {least >> 10}KiB to {most >> 30}GiB; "0" records nothing')
