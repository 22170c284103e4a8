"""What a trained or training network shows: plots."""
