"""The codecs of ggml's tensor types, and bounds on their errors."""
