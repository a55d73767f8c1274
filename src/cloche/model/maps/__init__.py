"""What a block does to each position alone."""
