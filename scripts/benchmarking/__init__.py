"""What scripts/benchmark measures, and how it reports."""
