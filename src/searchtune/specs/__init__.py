"""What a user writes down: tasks and recipes, read from YAML, checked, frozen. Knows no files but its own YAML."""
