"""The networks: mixers, the one backbone, timm registration, weights in and out."""
