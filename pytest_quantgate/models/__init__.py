"""Models: where one comes from, and what its files say of themselves."""
