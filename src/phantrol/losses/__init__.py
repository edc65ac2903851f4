"""Floor 3: what is minimised. One file, one loss; `find("losses", NAME)` imports it."""
