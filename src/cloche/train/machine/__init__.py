"""The machine: matrix product rates, memory, the cost of a step."""
