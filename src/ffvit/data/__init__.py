"""Images: where they come from, how they are parted, augmented, ordered and loaded."""
