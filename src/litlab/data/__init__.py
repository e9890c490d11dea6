"""Batches of any data."""
