"""The built-in suite: ordinary tests over the public fixtures and markers."""

MATRIX_NODE = "quant-matrix"
CALIBRATION_NODE = "quant-calibrate"
CODECS_NODE = "quant-codecs"
