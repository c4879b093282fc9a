"""What `/openapi.json` says of `/predict`, whose body is read by hand."""

from __future__ import annotations

from typing import Any

__all__ = ["PREDICT_SCHEMA"]

_OPTIONS = {
    "min_score": {"type": "number", "minimum": 0, "maximum": 1},
    "format": {"type": "string", "enum": ["json", "image", "jpeg", "png"]},
}
_FILE = {"type": "string", "format": "binary"}


def _body(image: dict[str, Any]) -> dict[str, Any]:
    properties = {"image": image, **_OPTIONS}
    return {"schema": {"type": "object", "required": ["image"], "properties": properties}}


PREDICT_SCHEMA: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in _OPTIONS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _body(_FILE),
            "application/json": _body({"type": "string", "contentEncoding": "base64"}),
            "image/*": {"schema": _FILE},
        },
    },
    "responses": {
        "200": {
            "description": "Detections, or the picture with them drawn into it.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "image/jpeg": {"schema": _FILE},
                "image/png": {"schema": _FILE},
            },
        },
        "400": {"description": "The request or its image is malformed."},
        "408": {"description": "The upload took too long."},
        "413": {"description": "The file or the image is too large."},
        "415": {"description": "The body is of an unknown type."},
        "503": {"description": "Too much is waiting; Retry-After says when to come again."},
        "504": {"description": "The model did not answer in time."},
    },
}
