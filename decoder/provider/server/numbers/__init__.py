"""The counters of a server, for Prometheus and for probes."""
