"""What a network sees in one image."""
