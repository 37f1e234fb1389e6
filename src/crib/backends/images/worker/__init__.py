"""What runs in the image worker, a process without privileges. The daemon imports nothing of it."""
