"""What a user of `detectron2 benchmark` may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BenchmarkOptions"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of `detectron2 benchmark`; see its help."""

    config: str
    images: list[str]
    weights: str | None = None
    random_weights: bool = False
    variants: list[str] = field(default_factory=lambda: ["plain", "fp32"])
    compare: list[str] = field(default_factory=list)
    compare_python: str | None = None
    accuracy: bool = False
    val_data: tuple[Path, Path] | None = None
    repeats: int = 3
    max_images: int = 8
    threads: int | None = None
    device: str | None = None
    json_file: Path | None = None
    overrides: list[str] = field(default_factory=list)
