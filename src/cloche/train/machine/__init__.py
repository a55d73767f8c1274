"""What this machine can do: matrix rates, memory, the cost of a step."""
