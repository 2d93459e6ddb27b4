"""Images: where they come from, how they are split, augmented, ordered and loaded."""
