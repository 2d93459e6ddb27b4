"""The controlled study: a plan, its runs, and what they show with its uncertainty."""
