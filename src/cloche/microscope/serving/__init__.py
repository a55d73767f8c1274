"""The server on the loopback interface, and the worker process that loads the models."""
