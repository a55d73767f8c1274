"""Games and puzzles with exact solutions."""
