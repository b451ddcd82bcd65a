"""Benchmarks: `make bench`. Ratios measured in one run, since machines are noisy."""
