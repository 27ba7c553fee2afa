"""The local stack in containers, for people who have docker."""
