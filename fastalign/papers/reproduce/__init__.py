"""A paper's table again: what is missing of it is run, and ours is set beside what is published."""
