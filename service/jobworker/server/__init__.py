"""The service: gRPC in front, files behind, an executor beside it."""
