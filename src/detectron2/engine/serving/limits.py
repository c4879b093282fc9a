"""What a server accepts, and how it says no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

__all__ = ["Refused", "ServeLimits"]


class Refused(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP, 4xx for what the client can mend, 503 and 504 for what time can.
        sentence: what is wrong, with the value and the way out.
        headers: of the answer.
    """

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class ServeLimits:
    """Bounds of memory and time. Seconds, bytes and pixels.

    Attributes:
        max_batch: images that the model takes at once.
        max_wait: how long the first image of a batch waits for others.
        max_queue: images that wait for the model; one more is answered with 503.
        max_requests: uploads in progress; one more is answered with 503 before it is read.
        max_bytes: of the body of a request.
        max_pixels: of an image, whatever the size of its file: a PNG of 60 kB can hold 10,000
            times as many pixels as it has bytes.
        read_timeout: from the first byte of a request to its last; then 408.
        answer_timeout: from the last byte of a request to its answer; then 504.
    """

    max_batch: int = 8
    max_wait: float = 0.005
    max_queue: int = 64
    max_requests: int = 256
    max_bytes: int = 10 * 2**20
    max_pixels: int = 25_000_000
    read_timeout: float = 15.0
    answer_timeout: float = 30.0

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: a limit is not positive.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            if value < 0 or (value == 0 and each.name != "max_wait"):
                raise ValueError(f"The limit {each.name} is {value}; it has to be above 0.")
