"""Where work runs: the locks of devices."""
