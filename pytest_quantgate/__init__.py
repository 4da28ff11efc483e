"""Quality gates for quantized GGUF models, as a pytest plugin."""

__version__ = "0.1.0"
