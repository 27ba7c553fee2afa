"""What sound data looks like: suites for Great Expectations, rules that it does not have, and the runner of both."""
