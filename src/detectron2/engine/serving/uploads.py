"""What a request asks for: its body, within bounds of size and time, and the image in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.engine.serving.limits import Refused, ServeLimits

__all__ = ["Wanted", "parse_upload", "read_body"]

# After this many bytes too much, the connection is closed in the middle of the upload; a client
# that sends less reads the answer.
_MAX_DISCARDED = 64 * 2**20
_IMAGE_FIELD = "image"


@dataclass(frozen=True)
class Wanted:
    """An image to predict on.

    Attributes:
        image: bytes of the file.
        min_score: detections below it are left out.
        media_type: of the answer: "application/json", "image/png" or "image/jpeg".
    """

    image: bytes
    min_score: float
    media_type: str


async def read_body(
    chunks: AsyncIterator[bytes], declared: str | None, limits: ServeLimits
) -> bytes:
    """The body of a request.

    Args:
        chunks: of the body, as they come.
        declared: the header Content-Length.

    Raises:
        Refused: 413 it is too long, 408 it takes too long.
    """
    limit = limits.max_bytes
    if declared is not None and declared.isdigit() and int(declared) > limit + _MAX_DISCARDED:
        raise _too_long(limit, close=True)
    try:
        body = await asyncio.wait_for(_collect(chunks, limit), limits.read_timeout)
    except asyncio.TimeoutError:
        raise Refused(
            408,
            f"The upload took longer than {limits.read_timeout:g} s.",
        ) from None
    if body is None:
        raise _too_long(limit)
    return body


async def _collect(chunks: AsyncIterator[bytes], limit: int) -> bytes | None:
    """All of the body; None if it is longer than `limit`."""
    body, length = bytearray(), 0
    async for chunk in chunks:
        length += len(chunk)
        if length <= limit:
            body += chunk
        elif length > limit + _MAX_DISCARDED:
            raise _too_long(limit, close=True)
        else:
            # Read to the end and thrown away: a client that is still sending when the connection
            # closes sees that, and not the answer.
            body.clear()
    return bytes(body) if length <= limit else None


def _too_long(limit: int, close: bool = False) -> Refused:
    return Refused(
        413,
        f"The request has more than {limit} bytes, which is what this server takes at most.",
        {"connection": "close"} if close else {},
    )


def parse_upload(
    body: bytes, headers: Mapping[str, str], query: Mapping[str, str], min_score: float
) -> Wanted:
    """The image and the options in a request.

    The body is a form with the file in the field "image", JSON with the image in base64, or the
    file itself. Options are fields beside the image or part of the address.

    Args:
        headers: of the request, by lower-case name.
        query: parameters of the address.
        min_score: if the request has none.

    Raises:
        Refused: 400 it is malformed, 415 it is of another type.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        fields = _form(body, headers["content-type"])
    elif kind == "application/json":
        fields = _json(body)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        fields = {_IMAGE_FIELD: body}
    else:
        raise Refused(
            415,
            f"The content type is {kind!r}; send multipart/form-data with the field 'image', "
            "application/json with 'image' in base64, or the file itself as image/*.",
        )
    if _IMAGE_FIELD not in fields:
        raise Refused(400, f"The request has no field 'image'; it has {_names(fields)}.")
    options = {**query, **fields}
    return Wanted(
        fields[_IMAGE_FIELD],
        _score(options.get("min_score", min_score)),
        _media_type(options.get("format"), headers.get("accept", "")),
    )


def _form(body: bytes, content_type: str) -> dict[str, Any]:
    """Text of the fields and bytes of the files, by name; the first of equal names."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import create_form_parser

    fields: dict[str, Any] = {}

    def on_field(field: Any) -> None:
        name, value = field.field_name or b"", field.value or b""
        fields.setdefault(name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))

    def on_file(file: Any) -> None:
        file.file_object.seek(0)
        name = (file.field_name or b"").decode("utf-8", "replace")
        # Not closed: it is in memory, and python-multipart below 0.0.33 would write to it again.
        fields.setdefault(name, file.file_object.read())

    try:
        parser = create_form_parser(
            {"Content-Type": content_type.encode("latin-1")},
            on_field,
            on_file,
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError, UnicodeError) as error:
        raise Refused(400, f"The form is malformed: {error}") from error
    image = fields.get(_IMAGE_FIELD)
    if isinstance(image, str):
        raise Refused(400, "The field 'image' of the form holds text; send it as a file.")
    return fields


def _json(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise Refused(400, f"The JSON is a {type(fields).__name__}; send an object.")
    image = fields.get(_IMAGE_FIELD)
    if image is None:
        fields.pop(_IMAGE_FIELD, None)
        return fields
    if not isinstance(image, str):
        raise Refused(400, "'image' has to be the file in base64, as text; addresses are not read.")
    if image.startswith("data:"):
        image = image.partition(",")[2]
    try:
        fields[_IMAGE_FIELD] = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"'image' is not base64: {error}.") from error
    return fields


def _names(fields: Mapping[str, Any]) -> str:
    names = ", ".join(repr(name[:40]) for name in list(fields)[:8])
    return names or "none at all"


def _score(value: Any) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = float("nan")
    if isinstance(value, bool) or not 0 <= score <= 1:
        raise Refused(400, f"min_score is {str(value)[:40]!r}; give a number from 0 to 1.")
    return score


_MEDIA_TYPES = {
    "json": "application/json",
    "image": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
}


def _media_type(format: Any, accept: str) -> str:
    """What to answer with: by `format`, else by the first type of `accept` that there is."""
    if format is not None:
        if str(format) not in _MEDIA_TYPES:
            known = ", ".join(_MEDIA_TYPES)
            raise Refused(400, f"format is {str(format)[:40]!r}; use one of {known}.")
        return _MEDIA_TYPES[str(format)]
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in _MEDIA_TYPES.values():
            return kind
        if kind == "image/*":
            return "image/jpeg"
    return "application/json"
