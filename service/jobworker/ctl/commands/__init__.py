"""A verb per file. Each imports gRPC only when it runs: `jobctl --help` is to be quick."""
