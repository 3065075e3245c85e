"""The ingress's stage of real processes serves these tests too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ingress"))

from api_stage import Stage, staged


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Two ingresses."""
    with staged(2, settings="resume_grace_s = 5.0") as stage:
        yield stage
