"""What starts the jobs of a sweep, and where."""
