"""`jobctl`, the users' command. It sees the client SDK, and nothing of the server."""
