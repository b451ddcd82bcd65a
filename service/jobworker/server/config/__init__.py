"""Configuration: typed keys, and where their values come from."""
