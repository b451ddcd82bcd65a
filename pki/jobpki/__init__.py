"""jobpki: the service's own certificate authority, its users and their client bundles."""
