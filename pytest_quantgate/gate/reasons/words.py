"""Figures in reasons."""

from __future__ import annotations

import math


def percent(fraction: float | None, digits: int = 2) -> str:
    """Format a relative change with its sign."""
    if fraction is None or not math.isfinite(fraction):
        return "not finite" if fraction is not None else "–"
    return f"{100 * fraction:+.{digits}f} %".replace("-", "−")


def points(fraction: float) -> str:
    """Format a difference of shares with its sign."""
    return f"{100 * fraction:+.2f} points".replace("-", "−")


def figure(value: float) -> str:
    """Write a perplexity with its digits, and a number of bytes in full."""
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"


def first_line(text: str) -> str:
    """Return an engine's message without its log."""
    return text.splitlines()[0] if text else ""
