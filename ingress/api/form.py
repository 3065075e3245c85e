"""The form of an upload, as it comes in: small fields are kept, the file goes through. Pure.

multipart/form-data is RFC 7578. Boundaries are found by `python_multipart`; here is which parts there may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ingress.errors import ApiError, invalid_request

MAX_VALUE: Final = 1024  # bytes of a field
MAX_PARTS: Final = 16
MAX_HEADERS: Final = 8  # of a part
_ANOTHER_FORM: Final = "multipart/form-data with a boundary is expected."


class Form:
    """One form.

    Args:
        content_type: of the request.
        fields: names that there may be, beside `file`.

    Attributes:
        values: of the fields that are complete.
        filename: of the file, once it has begun; None before.
        whole: the form is at its end.

    Raises:
        ApiError: 400, not such a form.
    """

    def __init__(self, content_type: str, fields: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiError(
                415, "invalid_request_error", f"Content-Type: {_ANOTHER_FORM}", code="unsupported_media_type"
            )
        self._fields = fields
        self.values: dict[str, str] = {}
        self.filename: str | None = None
        self.whole = False
        self._parts = 0
        self._header = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name = ""  # of the part that goes on
        self._field = bytearray()
        self._data: list[bytes] = []  # of the file, not taken yet
        callbacks: Mapping[str, Any] = {
            "on_part_begin": self._part_begins, "on_header_field": self._header_field,
            "on_header_value": self._header_value, "on_header_end": self._header_ends,
            "on_headers_finished": self._part_named, "on_part_data": self._part_data,
            "on_part_end": self._part_ends, "on_end": self._ends,
        }  # fmt: skip
        try:
            self._parser = MultipartParser(boundary, callbacks, max_header_count=MAX_HEADERS)  # type: ignore[arg-type]
        except FormParserError as error:
            raise invalid_request(f"The form's boundary is wrong: {error}.", code="invalid_form") from None

    def feed(self, data: bytes) -> bytes:
        """More of the body; what of the file was in it.

        Raises:
            ApiError: 400, it is no form, or not this one.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise invalid_request(f"The form cannot be read: {error}.", code="invalid_form") from None
        found = self._data[0] if len(self._data) == 1 else b"".join(self._data)
        self._data.clear()
        return found

    def end(self) -> None:
        """There is no more.

        Raises:
            ApiError: 400, something is missing.
        """
        if not self.whole:
            raise invalid_request("The form is cut off: its last boundary is missing.", code="invalid_form")
        if self.filename is None:
            raise invalid_request("file is missing.", param="file", code="missing_required_parameter")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise invalid_request(f"The form has more than {MAX_PARTS} parts.", code="invalid_form")
        self._headers, self._name = {}, ""
        self._field.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _part_named(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != "file" and name not in self._fields:
            raise invalid_request(f"Unknown parameter: {name[:80]!r}.", param=name[:80], code="unknown_parameter")
        if name in self.values or (name == "file" and self.filename is not None):
            raise invalid_request(f"{name} is there twice.", param=name, code="invalid_form")
        self._name = name
        if name == "file":
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._data.append(bytes(data[start:end]))
            return
        self._field += data[start:end]
        if len(self._field) > MAX_VALUE:
            raise invalid_request(f"{self._name} has more than {MAX_VALUE} bytes.", param=self._name)

    def _part_ends(self) -> None:
        if self._name != "file":
            self.values[self._name] = self._field.decode("utf-8", "replace")

    def _ends(self) -> None:
        self.whole = True
