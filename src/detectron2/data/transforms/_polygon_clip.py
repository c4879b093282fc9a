"""Cutting polygons with a window.

The vertices come out in the order that GEOS (shapely) gives them, which users' stored results
and the peer's depend on: clockwise for a y axis that points up, beginning with the second vertex
that lies in the window when the input is followed from its first vertex.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["clip_polygons"]

# Pairs of edges that are tested against each other at once; bounds the memory to some 60 MB.
_MAX_EDGE_PAIRS = 2**20


def clip_polygons(
    polygons: Iterable[np.ndarray], window: tuple[float, float, float, float]
) -> list[np.ndarray]:
    """Parts of polygons inside of a window.

    A polygon that crosses itself is what lies inside of its main sense of rotation: of a figure
    eight, the larger loop. Holes that an outline encloses are filled.

    Args:
        polygons: each (P, 2).
        window: (x0, y0, x1, y1).

    Returns:
        (Q, 2) float64 outlines of at least 3 points and a positive area, in the frame of the
        input. One polygon gives none, one or several.
    """
    pieces = []
    for polygon in polygons:
        for ring in _simple_rings(np.asarray(polygon, dtype=np.float64)):
            # Third column: how far along the ring a point lies (edge number and fraction).
            ring = np.column_stack([ring, np.arange(len(ring))])
            pieces += _clip_ring(ring, window)
    return [np.roll(piece[:, :2], -_first_vertex(piece), axis=0) for piece in pieces]


def _first_vertex(piece: np.ndarray) -> int:
    if np.isinf(piece[:, 2]).all():  # the whole window
        return int(np.lexsort((piece[:, 1], piece[:, 0]))[0])
    return int(piece[:, 2].argmin()) + 1


def _clip_ring(ring: np.ndarray, window: tuple[float, float, float, float]) -> list[np.ndarray]:
    x0, y0, x1, y1 = window
    rings = [ring]
    for axis, sign, limit in ((0, 1, x0), (1, 1, y0), (0, -1, x1), (1, -1, y1)):
        rings = [part for r in rings for part in _clip_half_plane(r, axis, sign, limit)]
    return rings


def _clip_half_plane(ring: np.ndarray, axis: int, sign: int, limit: float) -> list[np.ndarray]:
    """Pieces of a ring where ``sign * (point[axis] - limit) > 0``."""
    inside = sign * (ring[:, axis] - limit) > 0
    if inside.all():
        return [ring]
    if not inside.any():
        return []
    chains = _inside_chains(ring, inside, axis, limit)
    # Between two crossings that follow each other on the border, the border belongs to the
    # piece; so a chain that ends at one of them goes on with the chain that begins at the other.
    along = 1 - axis
    ends = [(chain[0][along], index, 0) for index, chain in enumerate(chains)]
    ends += [(chain[-1][along], index, 1) for index, chain in enumerate(chains)]
    ends.sort(key=lambda end: end[0])
    partner = {}
    for (_, i, side_i), (_, j, side_j) in zip(ends[::2], ends[1::2]):
        partner[i, side_i] = (j, side_j)
        partner[j, side_j] = (i, side_i)
    pieces = []
    unused = set(range(len(chains)))
    for first in range(len(chains)):
        if first not in unused:
            continue
        points: list[np.ndarray] = []
        index: int = first
        while index in unused:
            unused.remove(index)
            points += chains[index]
            # In a simple ring an exit always pairs with an entry.
            index = partner[index, 1][0]
        pieces.append(_without_repeats(np.array(points)))
    return [piece for piece in pieces if len(piece) >= 3 and _signed_area(piece) != 0]


def _inside_chains(
    ring: np.ndarray, inside: np.ndarray, axis: int, limit: float
) -> list[list[np.ndarray]]:
    """Runs of inside points, each with the border points before and after it."""
    # Begin outside, so that no run is cut open.
    ring = np.roll(ring, -int(np.argmin(inside)), axis=0)
    inside = np.roll(inside, -int(np.argmin(inside)))
    chains: list[list[np.ndarray]] = []
    for i in range(len(ring)):
        j = (i + 1) % len(ring)
        if inside[i]:
            chains[-1].append(ring[i])
        if inside[j] and not inside[i]:
            chains.append([_crossing(ring[i], ring[j], axis, limit)])
        elif inside[i] and not inside[j]:
            chains[-1].append(_crossing(ring[i], ring[j], axis, limit))
    return chains


def _crossing(a: np.ndarray, b: np.ndarray, axis: int, limit: float) -> np.ndarray:
    fraction = (limit - a[axis]) / (b[axis] - a[axis])
    point = np.empty(3)
    point[:2] = a[:2] + (b[:2] - a[:2]) * fraction
    point[axis] = limit
    # The edge from the last point of the ring to the first ends at 0; an edge along the window
    # belongs to no edge of the ring.
    edge = np.floor(a[2])
    end = b[2] if b[2] > 0 else edge + 1
    point[2] = a[2] + (end - a[2]) * fraction if edge < end <= edge + 1 else np.inf
    return point


def _simple_rings(polygon: np.ndarray) -> list[np.ndarray]:
    """Outlines of the region around which a closed line winds, each clockwise (y up)."""
    ring = _without_repeats(polygon)
    if len(ring) < 3:
        return []
    area = _signed_area(ring)
    if area > 0:
        ring = np.concatenate([ring[:1], ring[:0:-1]])
    loops = _uncross(ring)
    if loops is None:
        return [ring] if area != 0 else []
    return _outer_loops(loops)


def _without_repeats(ring: np.ndarray) -> np.ndarray:
    """Drop points that equal their predecessor; of a first and last that are equal, the last."""
    if len(ring) == 0:
        return ring
    position = ring[:, :2]
    differs = np.ones(len(ring), dtype=bool)
    differs[1:] = (position[1:] != position[:-1]).any(axis=1)
    if len(ring) > 1 and (position[-1] == position[0]).all():
        differs[-1] = False
    return ring[differs]


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def _uncross(ring: np.ndarray) -> list[np.ndarray] | None:
    """Split a line that crosses itself into simple loops; None if it does not.

    At each crossing the two strands swap their continuations, which keeps every direction and
    makes loops that only touch (Seifert's construction).
    """
    crossings = _self_crossings(ring)
    if not crossings:
        return None
    stops: list[list[tuple[float, int]]] = [[] for _ in ring]
    points: list[np.ndarray] = []
    for i, j, t, u in crossings:
        point = ring[i] + t * (ring[(i + 1) % len(ring)] - ring[i])
        stops[i].append((t, len(points)))
        stops[j].append((u, len(points) + 1))
        points += [point, point]
    # Nodes in the order of the walk; a crossing is visited twice, as nodes 2k and 2k + 1.
    walk: list[tuple[np.ndarray, int]] = []
    for i, vertex in enumerate(ring):
        walk.append((vertex, -1))
        walk += [(points[node], node) for _, node in sorted(stops[i])]
    position = {node: index for index, (_, node) in enumerate(walk) if node >= 0}
    unused = set(range(len(walk)))
    loops = []
    for first in range(len(walk)):
        if first not in unused:
            continue
        loop = []
        crossing_at = []
        index = first
        while index in unused:
            unused.remove(index)
            point, node = walk[index]
            if node >= 0:
                crossing_at.append(len(loop))
            loop.append(point)
            here = index if node < 0 else position[node ^ 1]
            index = (here + 1) % len(walk)
        loops.append(np.roll(np.array(loop), -crossing_at[0], axis=0))
    return loops


def _self_crossings(ring: np.ndarray) -> list[tuple[int, int, float, float]]:
    """(edge i, edge j, position on i, position on j) where edges cross inside of both."""
    # Legend: edge i runs from p_i along d_i. p_i + t d_i = p_j + u d_j gives
    # t = (q x d_j) / (d_i x d_j) and u = (q x d_i) / (d_i x d_j) with q = p_j - p_i.
    d = np.roll(ring, -1, axis=0) - ring
    found = []
    rows = max(1, _MAX_EDGE_PAIRS // len(ring))
    for start in range(0, len(ring), rows):
        d_i = d[start : start + rows, None]
        q = ring[None] - ring[start : start + rows, None]
        cross = d_i[..., 0] * d[:, 1] - d_i[..., 1] * d[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (q[..., 0] * d[:, 1] - q[..., 1] * d[:, 0]) / cross
            u = (q[..., 0] * d_i[..., 1] - q[..., 1] * d_i[..., 0]) / cross
        hit = (t > 0) & (t < 1) & (u > 0) & (u < 1)
        found += [
            (int(i) + start, int(j), float(t[i, j]), float(u[i, j]))
            for i, j in np.argwhere(np.triu(hit, k=start + 1))
        ]
    return found


def _outer_loops(loops: list[np.ndarray]) -> list[np.ndarray]:
    """Clockwise loops around which nothing winds yet: the outlines of the region."""
    loops = [loop for loop in loops if len(loop) >= 3 and _signed_area(loop) != 0]
    turns = [-1 if _signed_area(loop) > 0 else 1 for loop in loops]
    outer = []
    for i, loop in enumerate(loops):
        if turns[i] < 0:
            continue
        probe = _inner_point(loop)
        around = sum(turns[j] for j in range(len(loops)) if j != i and _contains(loops[j], probe))
        if around == 0:
            outer.append(loop)
    return outer


def _inner_point(ring: np.ndarray) -> np.ndarray:
    """A point strictly inside of a simple ring, close to the middle of one of its edges."""
    edges = np.roll(ring, -1, axis=0) - ring
    i = int(np.argmax((edges**2).sum(axis=1)))
    # The inside of a clockwise ring (y up) lies to the right of an edge (dx, dy): at (dy, -dx).
    inward = np.array([edges[i, 1], -edges[i, 0]])
    return ring[i] + edges[i] / 2 + 1e-6 * inward


def _contains(ring: np.ndarray, point: np.ndarray) -> bool:
    """Whether a ray to the right of `point` crosses the ring an odd number of times."""
    a, b = ring - point, np.roll(ring, -1, axis=0) - point
    straddles = (a[:, 1] > 0) != (b[:, 1] > 0)
    a, b = a[straddles], b[straddles]
    x = a[:, 0] - a[:, 1] * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    return bool(((x > 0).sum() % 2) == 1)
