"""Asking the accounts process: one order or question, its answer, and what to print where there is none."""

from __future__ import annotations

import sys
from typing import Final

from bus.messages.control import (
    AccountsHeld,
    AddKey,
    AddProject,
    GetAccounts,
    Ok,
    Rejected,
    ReplaceSecret,
    RevokeKey,
    SetAllowance,
)
from bus.names import ACCOUNTS
from cli.control import Caller, Unreachable

EXIT_MISSING: Final = 69
Change = AddProject | AddKey | ReplaceSecret | RevokeKey | SetAllowance


class Failed(Exception):
    """It was not done; `code` is the command's exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def order(*changes: Change) -> list[str]:
    """Carry these out, one after the other. What the process said of each.

    Raises:
        Failed: one was refused (those before it are done), or nobody is there.
    """
    said: list[str] = []
    with _caller() as caller:
        for change in changes:
            answer = _asked(caller, change)
            said.append(answer.detail if isinstance(answer, Ok) else "")
    return said


def held(scope: str, most: int = 100_000) -> AccountsHeld:
    """What there is.

    Raises:
        Failed: see `order`.
    """
    with _caller() as caller:
        answer = _asked(caller, GetAccounts(0, scope, most))
    assert isinstance(answer, AccountsHeld), answer
    return answer


def failed(failure: Failed) -> int:
    """Say so; the exit code."""
    print(failure, file=sys.stderr)
    return failure.code


def _caller() -> Caller:
    return Caller()


def _asked(caller: Caller, question: Change | GetAccounts) -> Ok | AccountsHeld:
    try:
        answer = caller.ask(ACCOUNTS, question)
    except Unreachable as problem:
        raise Failed(
            f'{problem}; keys are kept while [accounts] keys = "required" is in the configuration and headrace is up',
            EXIT_MISSING,
        ) from None
    if isinstance(answer, Rejected):
        raise Failed(answer.reason, 1)
    assert isinstance(answer, Ok | AccountsHeld), answer
    return answer
