"""Published sets of questions, read where they are."""
