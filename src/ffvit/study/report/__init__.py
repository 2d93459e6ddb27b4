"""A study's findings on paper: terminal, page, Markdown, figures."""
