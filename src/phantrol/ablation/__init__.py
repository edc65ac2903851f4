"""Floor 5: variants of a recipe under the same data, order, steps and seeds, and what may be said of them."""
