"""One file, one benchmark: a subclass of `Benchmark`, named by the module constant `BENCHMARK`."""
