"""`python -m ffvit`."""

from ffvit.cli import main

main()
