"""The page of `ffvit inspect`: its sections, pictures and tables."""
