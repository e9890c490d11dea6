"""The lab: everything that works with any data and any model."""
