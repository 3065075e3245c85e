"""Files and batches at real ingresses with keys: whose they are, what is refused, what outlives the batch process."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from desk import Desk, line, opened

from bus.messages.control import Drain, Undrain

pytestmark = pytest.mark.system

CRLF = b"\r\n"


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with opened() as desk:
        yield desk


@pytest.fixture(scope="module")
def key(desk: Desk) -> str:
    return desk.accounts.key()[1]


def lines(count: int, **body: object) -> bytes:
    return b"\n".join(line(f"q{n}", seed=n, **body) for n in range(count))


def test_lines_are_batch_requests_of_the_key_that_made_the_batch(desk: Desk, key: str) -> None:
    before = len(desk.stage.player.submits)
    batch = desk.ended(key, desk.make(key, lines(12)).json()["id"])
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 12)
    submits = desk.stage.player.submits[before:]
    assert len(submits) == 12
    assert all(submit.batch for submit in submits)
    assert {submit.tenant for submit in submits} == {"default/default"}
    rows = desk.rows(key, batch["output_file_id"])
    assert [row["custom_id"] for row in rows] == [f"q{n}" for n in range(12)]
    assert batch["usage"]["output_tokens"] == sum(row["response"]["body"]["usage"]["completion_tokens"] for row in rows)


def test_another_project_sees_nothing_and_a_reader_changes_nothing(desk: Desk, key: str) -> None:
    desk.accounts.headrace("projects", "create", "acme/web")
    other, reader = desk.accounts.key("--project", "acme/web")[1], desk.accounts.key("--role", "reader")[1]
    batch = desk.ended(key, desk.make(key, lines(1)).json()["id"])
    paths = [
        f"/v1/files/{batch['input_file_id']}", f"/v1/files/{batch['output_file_id']}/content",
        f"/v1/batches/{batch['id']}",
    ]  # fmt: skip
    for path in paths:
        assert desk.ask("GET", path, key).status_code == 200
        assert desk.ask("GET", path, reader).status_code == 200
        assert desk.ask("GET", path, other).status_code == 404
        assert desk.ask("GET", path, "sk-nobody").status_code == 401
    assert desk.ask("POST", f"/v1/batches/{batch['id']}/cancel", other).status_code == 404
    assert desk.ask("DELETE", f"/v1/files/{batch['input_file_id']}", other).status_code == 404
    assert desk.ask("GET", "/v1/files", other).json()["data"] == []
    assert desk.ask("GET", "/v1/batches", other).json()["data"] == []
    body = {"input_file_id": batch["input_file_id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    assert desk.ask("POST", "/v1/batches", other, json=body).json()["error"]["code"] == "file_not_found"
    for answer in (
        desk.upload(reader, b"x"), desk.ask("POST", "/v1/batches", reader, json=body),
        desk.ask("DELETE", f"/v1/files/{batch['input_file_id']}", reader),
    ):  # fmt: skip
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "role_not_allowed")


def test_limits_of_the_key_hold_for_its_lines(desk: Desk) -> None:
    id, key = desk.accounts.key()
    desk.accounts.headrace("keys", "limits", id, "requests=60")
    batch = desk.ended(key, desk.make(key, lines(64)).json()["id"])
    assert batch["request_counts"] == {"total": 64, "completed": 64, "failed": 0}, "they are waited for"


def test_a_key_that_is_revoked_fails_what_is_left(desk: Desk) -> None:
    id, key = desk.accounts.key()
    friend = desk.accounts.key()[1]  # of the same project
    made = desk.make(key, lines(400, priority=20, max_tokens=30)).json()["id"]
    desk.accounts.headrace("keys", "revoke", id)
    batch = desk.ended(friend, made)
    assert batch["status"] == "completed"
    assert batch["request_counts"]["failed"] > 0
    rows = desk.rows(friend, batch["error_file_id"])
    assert {row["response"]["status_code"] for row in rows} == {401}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "empty_file"),
        (b"x" * (3 * 2**20 + 1), 413, "file_too_large"),
        (b"x" * (4 * 2**20), 413, "request_too_large"),
    ],
    ids=["empty", "too large", "says that it is too large"],
)
def test_files_of_a_wrong_size_are_refused(desk: Desk, key: str, content: bytes, status: int, code: str) -> None:
    answer = desk.upload(key, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_project_keeps_so_many_bytes(desk: Desk) -> None:
    desk.accounts.headrace("projects", "create", "acme/hoard")
    key = desk.accounts.key("--project", "acme/hoard")[1]
    kept = [desk.upload(key, b"x" * (3 * 2**20)) for _ in range(3)]
    assert [each.status_code for each in kept] == [200, 200, 400]
    assert kept[2].json()["error"]["code"] == "storage_quota_exceeded"
    assert desk.ask("DELETE", f"/v1/files/{kept[0].json()['id']}", key).json()["deleted"]
    assert desk.upload(key, b"x" * (3 * 2**20)).status_code == 200


FORMS = {
    "no form": (b"{}", b"application/json", 415),
    "no boundary": (b"", b"multipart/form-data", 415),
    "nothing": (b"", b"multipart/form-data; boundary=b", 400),
    "cut off": (
        b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx', b"multipart/form-data; boundary=b", 400,
    ),
    "no file": (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
        b"multipart/form-data; boundary=b", 400,
    ),
    "an unknown part": (
        b'--b\r\ncontent-disposition: form-data; name="nonsense"\r\n\r\nbatch\r\n--b--\r\n',
        b"multipart/form-data; boundary=b", 400,
    ),
    "an endless field": (
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 100_000 + b"\r\n--b--\r\n",
        b"multipart/form-data; boundary=b", 400,
    ),
    "an endless header": (
        b"--b\r\n" + b"x" * 100_000 + b': form-data; name="purpose"\r\n\r\nx\r\n--b--\r\n',
        b"multipart/form-data; boundary=b", 400,
    ),
    "many parts": (
        b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\nx\r\n' * 50 + b"--b--\r\n",
        b"multipart/form-data; boundary=b", 400,
    ),
    "another boundary": (b"--c\r\n\r\nx\r\n--c--\r\n", b"multipart/form-data; boundary=b", 400),
    "a long boundary": (b"", b"multipart/form-data; boundary=" + b"b" * 5000, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_hostile_forms_are_refused(desk: Desk, key: str, name: str) -> None:
    body, kind, status = FORMS[name]
    answer = desk.ask("POST", "/v1/files", key, content=body, headers={"content-type": kind.decode()})
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_upload_goes_on_when_the_batch_process_was_killed_in_the_middle(desk: Desk, key: str) -> None:
    content = lines(3) + b"\n" + b" " * (2 * 2**20 + 1000)
    form = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n' + content
        + b'\r\n--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    )  # fmt: skip
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {len(form)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", desk.stage.port), 60) as connection:
        connection.sendall(head + form[: 3 * 2**19])
        desk.restart()
        connection.sendall(form[3 * 2**19 :])
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    status, _, body = answer.partition(CRLF)[0], *answer.partition(CRLF + CRLF)[1:]
    assert b" 200 " in status, answer
    file = json.loads(body)
    assert file["bytes"] == len(content)
    assert desk.ask("GET", f"/v1/files/{file['id']}/content", key).content == content
    assert file["filename"] == "x"


def test_names_of_files_are_no_paths(desk: Desk, key: str) -> None:
    assert desk.upload(key, b"x").json()["filename"] == "lines.jsonl"
    for id in ("..%2f..%2fbatch.db", "%2fetc%2fpasswd", "uploads", "file-../batch"):
        assert desk.ask("GET", f"/v1/files/{id}/content", key).status_code == 404


def test_a_batch_process_that_was_killed_computes_nothing_twice(desk: Desk, key: str) -> None:
    before = len(desk.stage.player.submits)
    made = desk.make(key, lines(60, priority=20, max_tokens=25)).json()["id"]
    for _ in range(3):
        desk.restart()
    batch = desk.ended(key, made)
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 60)
    submits = {submit.request for submit in desk.stage.player.submits[before:]}
    assert len(submits) == 60, "each line is one request, whoever asked for it how often"
    usage = [row["response"]["body"]["usage"]["completion_tokens"] for row in desk.rows(key, batch["output_file_id"])]
    assert usage == [25] * 60


def test_lines_go_to_another_ingress_when_theirs_is_taken_out(desk: Desk, key: str) -> None:
    made = desk.make(key, lines(60, priority=20, max_tokens=25)).json()["id"]
    desk.stage.tell(0, Drain(0, ""))
    try:
        assert desk.ended(key, made)["request_counts"]["completed"] == 60
    finally:
        desk.stage.tell(0, Undrain(0, ""))


def test_what_is_under_way_is_bounded_and_cannot_lose_its_file(desk: Desk, key: str) -> None:
    made = desk.make(key, lines(200, priority=30, max_tokens=40)).json()
    refused = desk.ask("DELETE", f"/v1/files/{made['input_file_id']}", key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "file_in_use")
    assert desk.ask("POST", f"/v1/batches/{made['id']}/cancel", key).status_code == 200
    done = desk.ended(key, made["id"])
    assert done["status"] == "cancelled"
    again = desk.ask("POST", f"/v1/batches/{made['id']}/cancel", key)
    assert again.json()["status"] == "cancelled"
    assert desk.ask("DELETE", f"/v1/files/{made['input_file_id']}", key).status_code == 200


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"endpoint": "/v1/moderations"}, "invalid_value"),
        ({"completion_window": "soon"}, "invalid_value"),
        ({"completion_window": "900h"}, "invalid_completion_window"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "invalid_value"),
        ({"nonsense": 1}, "unknown_parameter"),
        ({"input_file_id": "file-none"}, "file_not_found"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "invalid_value"),
    ],
)
def test_batches_that_cannot_be_are_refused_by_name(desk: Desk, key: str, change: dict[str, object], code: str) -> None:
    answer = desk.make(key, b"x", **change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text


def test_parameters_of_lists_are_refused_by_name(desk: Desk, key: str) -> None:
    for query in ("limit=0", "limit=x", "order=up", "nonsense=1", "after=", "purpose=", "purpose=other"):
        refused = desk.ask("GET", f"/v1/files?{query}", key)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, query.partition("=")[0])
    assert desk.ask("GET", "/v1/files?after=file-none", key).status_code == 404
    assert desk.ask("GET", "/v1/batches?after=", key).status_code == 400
    assert desk.ask("GET", "/v1/files?purpose=fine-tune", key).json()["data"] == []
