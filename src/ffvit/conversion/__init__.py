"""A trained network changed: for another image size."""
