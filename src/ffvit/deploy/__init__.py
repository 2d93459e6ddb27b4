"""Getting a network used."""
