"""The training step as a CUDA graph: when it may be captured, whether it still holds, and whether it is right."""
