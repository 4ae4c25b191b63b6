"""Training: the fit loop, the callbacks that watch it, and checkpoints."""
