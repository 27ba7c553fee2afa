"""What serves and why: the rollout log, the reconcile loop, the judge and their HTTP door. Nothing here trains."""
