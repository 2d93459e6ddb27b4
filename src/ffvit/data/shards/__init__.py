"""Images in tar files, local or remote: any of them is read at random."""
