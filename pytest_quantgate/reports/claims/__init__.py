"""Published claims: figures of others, set beside what was measured here."""
