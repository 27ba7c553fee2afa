"""The local stack: real servers as child processes of one supervisor, on loopback, under one home directory."""
