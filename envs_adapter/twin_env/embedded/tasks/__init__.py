"""One file a task, each a class with `load_actors`, `play_once` and `check_success`."""
