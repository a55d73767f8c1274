"""Monitors of a run in training: health, loss spikes, pace, events."""
