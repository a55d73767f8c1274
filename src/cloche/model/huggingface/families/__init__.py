"""One file of names for each Hugging Face family."""
