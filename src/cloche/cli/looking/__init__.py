"""Commands that look into runs."""
