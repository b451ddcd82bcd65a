"""How each fault is injected: a scenario a file."""
