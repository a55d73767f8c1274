"""The one vocabulary of places in a model, what is done there, and what a pass gives back."""
