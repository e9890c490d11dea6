"""The worked example, yours to replace: a small network that reads handwritten digits."""
