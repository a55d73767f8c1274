"""Commands for signals, images and series."""
