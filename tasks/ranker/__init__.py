"""The model: state, features, retrieval, network, runtimes. Training and serving share what makes a score."""
