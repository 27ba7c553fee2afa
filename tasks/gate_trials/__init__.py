"""How often the gate errs: sound and damaged models, mixed over real users, judged as candidates are, over and over."""
