"""Breaking datasets on purpose: annotation files and image files, one random fault at a time."""

import copy
import io
import json
import math

import numpy as np
from PIL import Image

NONSENSE = [
    None, "", "x", -1, 0, 1.5, 10**30, math.nan, math.inf, -math.inf, True, [], {}, [None], [[]],
    [1, 2, 3], [1, 2, 3, "4"], {"size": [1, 2]}, {"size": ["a", 2], "counts": "x"}, "\0", [[1, 2]],
    {"size": [64, 64], "counts": [1, -5]}, {"size": [64, 64], "counts": "PP~~"},
    {"size": [0, 0], "counts": []}, [[math.nan] * 6], [[0, 0, 1, 1, 2]],
]  # fmt: skip


def slots(node, path=()):
    """Paths of all values in nested lists and dictionaries."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from slots(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def broken_content(content, rng):
    """Copy of a COCO file's content in which one value, or a few, are replaced or gone."""
    broken = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        paths = list(slots(broken))
        if not paths:
            break
        path = paths[int(rng.integers(len(paths)))]
        parent, key = at(broken, path[:-1]), path[-1]
        action = int(rng.integers(4))
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(NONSENSE[int(rng.integers(len(NONSENSE)))])
    return broken


def broken_text(content, rng):
    """Bytes of an annotation file: with a fault in its values, or in its syntax."""
    if rng.random() < 0.8:
        return json.dumps(broken_content(content, rng)).encode()
    return mangled(json.dumps(content).encode(), rng)


def mangled(data, rng):
    """Bytes with the end cut off, bytes changed, a part lost, or something else altogether."""
    data = bytearray(data)
    action = int(rng.integers(5))
    if action == 0:
        return bytes(data[: int(rng.integers(len(data)))])
    if action == 1:
        for _ in range(int(rng.integers(1, 30))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        return bytes(data)
    if action == 2:
        start = int(rng.integers(len(data)))
        del data[start : start + int(rng.integers(1, 200))]
        return bytes(data)
    if action == 3:
        return bytes(rng.integers(0, 256, int(rng.integers(0, 400)), dtype=np.uint8))
    head = int(rng.integers(1, 64))  # the header alone decides what the decoder tries
    return bytes(data[:head]) + rng.bytes(200)


def image_bytes(rng):
    """A small image in one of the formats that people have."""
    kind = ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"][int(rng.integers(7))]
    mode = ["RGB", "L", "P", "RGBA", "I;16"][int(rng.integers(5))]
    height, width = (int(side) for side in rng.integers(1, 48, 2))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65535, (height, width), dtype=np.uint16))
    else:
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
    if (
        kind in ("JPEG", "BMP", "PPM")
        and mode not in ("RGB", "L")
        or mode == "I;16"
        and kind in ("GIF", "WEBP")
    ):
        kind = "PNG"
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()
