"""Requests over gRPC: in at the listener, through the layers, to a thin servicer for each service."""
