"""The server on this machine's loopback, and the process that holds the models."""
