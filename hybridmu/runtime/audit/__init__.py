"""Audits of a running system: shadow models, verification, replay."""
