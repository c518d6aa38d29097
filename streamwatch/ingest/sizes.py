"""How large the pictures are that sources hand on. Pure."""

from __future__ import annotations


def fitted(width: int, height: int, max_side: int) -> tuple[int, int] | None:
    """The size, in the same proportions, whose longer side is `max_side`; None where it is no longer than that."""
    scale = max_side / max(width, height)
    return (max(1, round(width * scale)), max(1, round(height * scale))) if scale < 1.0 else None
