"""Grafana dashboards of the service, as Python; `make dashboards` writes the JSON, and a test holds it to be fresh."""
