"""Commands that make, grow and check runs."""
