"""Who calls: from the client's certificate and the token alone, never from metadata that a client can set freely."""
