"""Deployable services, one package each."""
