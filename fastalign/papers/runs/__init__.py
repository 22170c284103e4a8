"""Train a recipe: losses, optimizers, the loop, checkpoints, the metrics log, and the run that ties them."""
