"""Floor 1: what a decoder layer may learn. One file here is one modifier; `graft` puts them on a decoder."""
