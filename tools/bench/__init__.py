"""The measurements that the README quotes, each one command. Baselines run in the same minutes: quote ratios."""
