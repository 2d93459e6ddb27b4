"""Networks that answer over HTTP: a page and an API."""
