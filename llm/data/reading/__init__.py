"""Finding, reading and checking text and records."""
