"""The study: the folder in storage that a sweep writes. Rows are its truth."""
