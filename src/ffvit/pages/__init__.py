"""What pages that ffvit writes have in common: their style, and drawings that take its colours."""
