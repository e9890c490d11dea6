"""What TensorBoard shows of any image classifier besides its curves; each view is a callback of its own."""
