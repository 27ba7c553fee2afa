"""The effects: one module per outside thing, each a Protocol, the real one and an in-memory twin for unit tests."""
