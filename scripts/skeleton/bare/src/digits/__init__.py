"""The project's own: its data and its model."""
