"""What a recipe will take on this machine: memory and time, before it is trained."""
