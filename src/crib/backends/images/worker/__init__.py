"""What runs in the image worker, a process without rights: nothing of it is imported by the daemon."""
