"""The built-in suite: ordinary tests over the public fixtures and markers."""

MATRIX_NODE = "quant-matrix"
CALIBRATION_NODE = "quant-calibrate"
CODECS_NODE = "quant-codecs"

NODES = (MATRIX_NODE, CALIBRATION_NODE, CODECS_NODE)
"""The suites' node ids, which are arguments that pytest takes."""
