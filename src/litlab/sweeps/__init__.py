"""What makes many runs one study."""
