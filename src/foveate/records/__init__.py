"""People's files: where each record stands, what is wrong with it, and how it is named. Nothing is held."""
