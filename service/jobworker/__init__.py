"""jobworker: batches of Linux commands over gRPC, followed live by CorrelationID."""
