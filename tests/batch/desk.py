"""Two real ingresses with keys, the real accounts and batch processes, and a scheduler that plays its part."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
from api_stage import until
from counter import Counter, counter

SETTINGS = '[batch]\nmax_file = "3MiB"\nproject_files = "8MiB"\nproject_batches = 20\n'
OVER = ("completed", "failed", "expired", "cancelled")


class Desk:
    """HTTP with a key, and the batch process."""

    def __init__(self, accounts: Counter) -> None:
        self.accounts, self.stage = accounts, accounts.stage
        accounts.start("batch@host")

    def restart(self) -> None:
        """The batch process is killed, and comes back."""
        self.accounts.kill("batch@host")
        self.accounts.start("batch@host")

    def ask(self, method: str, path: str, key: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
        return self.stage.visits.request(method, path, headers=headers, **more)

    def upload(self, key: str, content: bytes, purpose: str = "batch", **more: Any) -> httpx.Response:
        return self.ask(
            "POST", "/v1/files", key, files={"file": ("a/b\\lines.jsonl", content)},
            data={"purpose": purpose, **more.pop("data", {})}, **more,
        )  # fmt: skip

    def make(self, key: str, content: bytes, **more: Any) -> httpx.Response:
        file = self.upload(key, content)
        assert file.status_code == 200, file.text
        body = {"input_file_id": file.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h", **more}
        return self.ask("POST", "/v1/batches", key, json=body)

    def ended(self, key: str, batch: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def over() -> bool:
            answer = self.ask("GET", f"/v1/batches/{batch}", key)
            if answer.status_code == 200:
                found.append(answer.json())
            return bool(found) and found[-1]["status"] in OVER

        until(over, self.stage.logs, 60)
        return found[-1]

    def rows(self, key: str, file: str | None) -> list[dict[str, Any]]:
        if file is None:
            return []
        answer = self.ask("GET", f"/v1/files/{file}/content", key)
        assert answer.status_code == 200, answer.text
        return [json.loads(row) for row in answer.text.splitlines()]


def line(custom_id: str, **body: Any) -> bytes:
    body = {"model": "m", "prompt": "hi", "max_tokens": 8, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}).encode()


@contextlib.contextmanager
def opened() -> Iterator[Desk]:
    with counter(tables=SETTINGS) as accounts:
        yield Desk(accounts)
