"""The dashboard in deploy/grafana without Grafana: its queries, a Prometheus to ask them, and a picture."""
