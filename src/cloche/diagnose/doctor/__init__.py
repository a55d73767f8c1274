"""A recipe before it is trained: the signal at initialisation, what will fail, memory and time."""
