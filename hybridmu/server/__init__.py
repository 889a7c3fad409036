"""The HTTP interface for the rest of a company: requests, plans, certificates, by bearer token."""
