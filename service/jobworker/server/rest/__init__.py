"""REST/JSON: the same methods as gRPC, by their google.api.http annotations."""
