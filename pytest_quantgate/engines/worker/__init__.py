"""The worker process: what runs the engine, and how the test run talks to it."""
