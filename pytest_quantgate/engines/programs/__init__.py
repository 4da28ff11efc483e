"""An engine that is a folder of llama.cpp's own programs."""
