"""Everything that prints a number."""

import tasks as tasks  # first, as in a step: it sets what libraries read when they are loaded
