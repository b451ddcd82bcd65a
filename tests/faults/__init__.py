"""Faults against the real service under load, and an oracle outside it: `python -m tests.faults`."""
