"""Images in tar files: packed, read at random here, fetched from far away."""
