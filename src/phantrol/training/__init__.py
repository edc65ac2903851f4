"""Floor 4: recipes, and the trainer that runs them."""
