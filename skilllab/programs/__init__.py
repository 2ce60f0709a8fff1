"""Programs that run in processes of their own: supervisor, warm parent and worker. Standard library only, quick to start.

The engine starts one supervisor. The supervisor starts instances: a warm parent, in bubblewrap or not, which forks one
worker at a time and ends everything that a worker leaves behind. Engine and worker talk over a socket of their own.
"""
