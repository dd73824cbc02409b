"""The sweep file: what it may say, reading it, and every mistake in it in plain words."""
