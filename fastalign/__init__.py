"""Fused kernels for learning without backpropagation, as ordinary PyTorch layers."""
