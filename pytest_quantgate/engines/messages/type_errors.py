"""How large the error of each ggml type is."""

from __future__ import annotations

TYPE_ERRORS = {
    1: 0.00021,
    2: 0.082,
    3: 0.07,
    6: 0.041,
    7: 0.034,
    8: 0.0054,
    10: 0.27,
    11: 0.15,
    12: 0.071,
    13: 0.035,
    14: 0.017,
    16: 0.34,
    17: 0.3,
    18: 0.18,
    19: 0.49,
    20: 0.075,
    21: 0.14,
    22: 0.25,
    23: 0.076,
    29: 0.45,
    30: 0.0017,
    34: 0.81,
    35: 0.81,
    39: 0.12,
    40: 0.095,
    41: 0.6,
    42: 0.72,
}
"""Relative RMS error of each ggml type on normally distributed values, llama.cpp 0c1e57098."""
