"""What a run says of itself while it trains: health, loss spikes, pace, events."""
