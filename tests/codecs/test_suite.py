"""The built-in suite's codec tests, with the quick profile and the codecs in this process."""

from pytest_quantgate.plugin.suites.test_codecs import (
    test_codec_golden_rms,
    test_codec_ladder,
    test_codec_matmul,
    test_codec_property,
    test_codec_vec_dot,
)

__all__ = [
    "test_codec_golden_rms",
    "test_codec_ladder",
    "test_codec_matmul",
    "test_codec_property",
    "test_codec_vec_dot",
]
