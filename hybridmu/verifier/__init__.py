"""Verification of certificates of deletion, which needs the package `cryptography` and nothing else.

The same files are `hybridmu.verifier`, by which this system checks its own certificates, and the package
`hybridmu_verify`, for those who do not want to install it. They import only each other.
"""
