"""GGUF files: formats, tensor groups, reader, writer, changes of tensors, embedded models."""
