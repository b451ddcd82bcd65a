"""Everything that reads what others wrote, given bytes that nobody meant to write: `make fuzz`."""
