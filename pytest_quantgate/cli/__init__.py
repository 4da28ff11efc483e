"""The `quantgate` command."""
