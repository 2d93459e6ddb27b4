"""How good a network is: per-image answers, and the figures made of them with their uncertainty."""
