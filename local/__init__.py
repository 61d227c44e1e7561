"""The same system on one machine, without Kubernetes. Nothing that is deployed imports it."""
