"""`[batch]`: files and batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from bus.config.section import Positive, Problem, Section, parse_size, unless


class BatchConfig(Section, frozen=True):
    """`[batch]`: files and batches, which `batch@host` keeps in the state directory.

    Attributes:
        enabled: whether there are any. False runs no process for them.
        max_file: of an input file.
        max_lines: of a batch.
        project_files: of all files of a project, or of the host where there are no keys.
        project_batches: of a project that are under way.
        in_flight: lines of a model that are asked for at once; 0 is as many as it has slots, and an eighth that waits.
        keep_days: that a file is kept whose client does not say, and a batch that is over.
    """

    enabled: bool = True
    max_file: str = "200MiB"
    max_lines: Annotated[int, Meta(ge=1, le=500_000)] = 50_000
    project_files: str = "10GiB"
    project_batches: Positive = 100
    in_flight: Annotated[int, Meta(ge=0, le=1024)] = 0
    keep_days: Annotated[int, Meta(ge=1, le=3650)] = 30


def problems(batch: BatchConfig) -> Iterator[Problem]:
    """What types cannot say."""
    yield from unless(parse_size, batch.max_file, ("batch", "max_file"))
    yield from unless(parse_size, batch.project_files, ("batch", "project_files"))
