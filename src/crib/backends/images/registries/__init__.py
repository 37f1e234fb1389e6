"""Which hosts are asked for an image: the administrator's files, read by the daemon."""
