"""What every test of this repository needs."""

pytest_plugins = ["pytester"]
