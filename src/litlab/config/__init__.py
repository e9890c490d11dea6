"""From the command line and the files in configs/ to checked settings, without importing torch."""
