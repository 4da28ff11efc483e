"""Engines: builds of llama.cpp behind one protocol."""
