"""How good a model is: benchmarks, metrics, and a runner that always shows what the pictures were worth."""
