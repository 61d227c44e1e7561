"""Makes what a release consists of, from the last commit: `make release`, `python -m tools.release -h`.

It runs in an environment of its own (requirements/release.txt), which neither the product nor the tests need.
"""
