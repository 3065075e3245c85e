"""`headrace audit`: is everything that kv believes of its pages true?"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from bus.messages.control import Audit, Audited
from bus.names import KV
from cli.control import Caller, Unreachable

PATIENCE_S: Final = 30.0  # some 20 us a page; kv answers nobody else meanwhile, and nobody waits for it


def audit(*, as_json: bool) -> int:
    """Ask, print. Exit code 1 where something was found, or nobody answers."""
    with Caller() as caller:
        try:
            answer = caller.ask(KV, Audit(0), PATIENCE_S)
        except Unreachable as error:
            print(error, file=sys.stderr)
            return 1
    if not isinstance(answer, Audited):
        print(f"{KV} does not audit: it is of another release", file=sys.stderr)
        return 1
    if as_json:
        print(msgspec.json.encode({"pages": answer.pages, "faults": answer.faults}).decode())
    else:
        for fault in answer.faults:
            print(fault)
        print(f"{answer.pages} pages, {len(answer.faults) or 'no'} faults")
    return 1 if answer.faults else 0
