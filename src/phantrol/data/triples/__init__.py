"""Wrong answers for Phantom Optimization, made for data of one's own: by a language model and a judge, or by rules."""
