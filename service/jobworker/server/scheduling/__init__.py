"""Taking work in, and giving it to workers."""
