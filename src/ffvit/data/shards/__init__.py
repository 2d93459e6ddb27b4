"""Images in tar files: read at random here, fetched from far away."""
