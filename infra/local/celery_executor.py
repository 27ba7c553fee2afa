"""Airflow's CeleryExecutor, importable: provider 3.26 wants a decorator that celery 5.7 no longer has.

Celery's database backend now tries again by itself; the provider puts the decorator around one read of its own, which the
next heartbeat of the scheduler repeats anyway. Delete this module once the provider imports without it (ADR 33).
"""

from __future__ import annotations

import celery.backends.database as backend

if not hasattr(backend, "retry"):
    backend.retry = lambda function: function

from airflow.providers.celery.executors.celery_executor import CeleryExecutor  # after what it imports

__all__ = ["CeleryExecutor"]
