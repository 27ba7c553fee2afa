"""The model: state, features, retrieval, network, runtimes. Training and serving share every line that makes a score."""
