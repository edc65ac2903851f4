"""Floor 5: recipes. A file holds a function `recipe` that returns a Recipe: data only, nothing is loaded or drawn."""
