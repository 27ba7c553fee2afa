"""What the evaluate step and `freshrank evaluate` share: facts about slates, reports about systems, checks of behaviour."""
