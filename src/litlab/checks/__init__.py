"""Checks of a user's own data and module: are they right, exact, fast and safe?"""
