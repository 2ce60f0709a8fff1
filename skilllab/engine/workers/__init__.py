"""Work in processes of its own: what this machine can hold, the supervisor, the seats of its workers, and their calls."""
