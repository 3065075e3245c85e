"""Lines of an input file, and what is wrong with them. Bytes in, lines or problems out.

A file is read in chunks of any size, and no more of it is held than its longest line may have. A byte order mark in
front, CR before LF, empty lines, and a last line without an end are no problem; they are as editors leave them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from bus.messages.batches import BatchError

MAX_CUSTOM_ID: Final = 512
MAX_ERRORS: Final = 100  # that a batch tells of
_BOM: Final = b"\xef\xbb\xbf"
_WHERE: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_FIELD: Final = re.compile(r"field `([^`]*)`")


class Raw(NamedTuple):
    """A line as it is in the file.

    Attributes:
        number: from 1; empty lines count.
        offset: of its first byte.
        data: without its end; None where it is longer than lines may be.
    """

    number: int
    offset: int
    data: bytes | None


class Line(NamedTuple):
    """A line that can be answered. Its bytes are `length` from `offset` on."""

    number: int
    offset: int
    length: int
    custom_id: str


class Splitter:
    """Lines out of chunks.

    Args:
        longest: bytes of a line.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts: list[bytes] = []  # of the line that has begun
        self._held = 0
        self._skipping = False  # the rest of a line that is too long
        self._number = 1
        self._begun = self._read = 0  # offsets: of the line that has begun, and of what comes next

    def feed(self, chunk: bytes) -> Iterator[Raw]:
        """The lines that end in the next bytes of the file."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._hold(chunk[start:end])
            yield self._line(self._read + end + 1)
            start = end + 1
        self._hold(chunk[start:])
        self._read += len(chunk)

    def end(self) -> Iterator[Raw]:
        """The last line, where nothing ends it."""
        if self._held or self._skipping:
            yield self._line(self._read)

    def _hold(self, part: bytes) -> None:
        if self._skipping:
            return
        self._held += len(part)
        if self._held > self._longest + 2:  # a CR is not the line's own, and a mark in front is not either
            self._parts.clear()
            self._held, self._skipping = 0, True
        elif part:
            self._parts.append(part)

    def _line(self, following: int) -> Raw:
        data, offset, number = b"".join(self._parts), self._begun, self._number
        skipped = self._skipping
        self._parts, self._held, self._skipping = [], 0, False
        self._begun, self._number = following, number + 1
        if number == 1 and data.startswith(_BOM):
            data, offset = data[len(_BOM) :], offset + len(_BOM)
        data = data.removesuffix(b"\r")
        return Raw(number, offset, None if skipped or len(data) > self._longest else data)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line says."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct, frozen=True):
    """What must be known of a body before it is asked for; the rest is the endpoint's."""

    model: str
    stream: bool | None = None
    background: bool | None = None


_decode_request: Final = msgspec.json.Decoder(Request).decode
_decode_body: Final = msgspec.json.Decoder(_Body).decode


class Wrong(Exception):
    """Of one line: what is wrong, as OpenAI's errors of a batch say it."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class Checker:
    """All lines of one file, one after another.

    Args:
        endpoint: that they must be for.
        most: lines that there may be.

    Attributes:
        model: that the lines name; empty before the first.
        lines: how many can be answered.
        problems: what is wrong, the first of it.
    """

    def __init__(self, endpoint: str, most: int) -> None:
        self._endpoint, self._most = endpoint, most
        self._seen: set[bytes] = set()  # digests: 50,000 ids of 512 characters would be much
        self.model = ""
        self.lines = 0
        self.problems: list[BatchError] = []

    @property
    def hopeless(self) -> bool:
        """Whether there are as many problems as are told of."""
        return len(self.problems) >= MAX_ERRORS

    def look(self, raw: Raw) -> Line | None:
        """A line that can be answered; None where it is empty, or wrong."""
        if raw.data is not None and not raw.data.strip():
            return None
        try:
            return self._line(raw)
        except Wrong as wrong:
            self.problems.append(BatchError(wrong.code, wrong.message, wrong.param, raw.number))
        return None

    def end(self) -> None:
        """There are no more."""
        if not self.lines and not self.problems:
            self.problems.append(BatchError("empty_file", "The file has no lines."))

    def _line(self, raw: Raw) -> Line:
        if raw.data is None:
            raise Wrong("line_too_long", "The line is longer than a request may be ([ingress] max_body).")
        request = parse(raw.data)
        if not 1 <= len(request.custom_id) <= MAX_CUSTOM_ID:
            raise Wrong("invalid_custom_id", f"custom_id has 1 to {MAX_CUSTOM_ID} characters.", "custom_id")
        if request.method != "POST":
            raise Wrong("invalid_method", f'method is "POST", not {request.method[:20]!r}.', "method")
        if request.url != self._endpoint:
            raise Wrong("invalid_url", f"url is {self._endpoint}, as the batch says, not {request.url[:80]!r}.", "url")
        model = _model(bytes(request.body))
        if self.model and model != self.model:
            raise Wrong(
                "mismatched_model", f"The lines before are for {self.model!r}, this one for {model[:80]!r}.",
                "body.model",
            )  # fmt: skip
        digest = hashlib.blake2b(request.custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            raise Wrong("duplicate_custom_id", "Another line has the same custom_id.", "custom_id")
        if self.lines >= self._most:
            raise Wrong("too_many_lines", f"A batch has at most {self._most} lines ([batch] max_lines).")
        self._seen.add(digest)
        self.model = model
        self.lines += 1
        return Line(raw.number, raw.offset, len(raw.data), request.custom_id)


def parse(data: bytes) -> Request:
    """A line.

    Raises:
        Wrong: it is not one.
    """
    try:
        data.decode()  # the decoder does not look into what it leaves as it is
        return _decode_request(data)
    except UnicodeDecodeError:
        raise Wrong("invalid_utf8", "The line is not UTF-8.") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error), "") from None
    except msgspec.DecodeError as error:
        raise Wrong("invalid_json_line", f"The line is not a JSON object: {error}") from None
    except RecursionError:
        raise Wrong("invalid_json_line", "The line is nested too deeply.") from None


def _model(body: bytes) -> str:
    try:
        known = _decode_body(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), "body") from None
    except msgspec.DecodeError as error:
        raise Wrong("invalid_json_line", f"The body is not JSON: {error}", "body") from None
    except RecursionError:
        raise Wrong("invalid_json_line", "The body is nested too deeply.", "body") from None
    if known.stream:
        raise Wrong("unsupported_parameter", "Lines of a batch are not streamed.", "body.stream")
    if known.background:
        raise Wrong("unsupported_parameter", "A batch is in the background as it is.", "body.background")
    if not known.model:
        raise Wrong("missing_required_parameter", "The body names no model.", "body.model")
    return known.model


def _invalid(message: str, prefix: str) -> Wrong:
    """What msgspec says, with the name of the field."""
    said = _WHERE.sub("", message)
    where = match[1] if (match := _WHERE.search(message)) else ""
    field = match[1] if (match := _FIELD.search(said)) else ""
    param = ".".join(part for part in (prefix, where, field) if part) or None
    if said.startswith("Object missing"):
        return Wrong("missing_required_parameter", f"{param} is missing.", param)
    if said.startswith("Object contains"):
        return Wrong("unknown_parameter", f"{param} is not known in a line of a batch.", param)
    return Wrong("invalid_type", f"{said}.", param)
