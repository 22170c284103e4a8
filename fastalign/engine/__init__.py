"""What runs a network under a rule: layers, the plan of a network, its passes, and its training step."""
