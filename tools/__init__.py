"""For those who work on this project: benchmarks, chaos, the toolchain, the test cluster. Never installed."""
