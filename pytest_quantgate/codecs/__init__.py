"""ggml's codecs, what they promise, and how far their errors may go."""
