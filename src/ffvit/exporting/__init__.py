"""A trained network as a file that other programs run, proven to predict the same."""
