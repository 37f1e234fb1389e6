"""What a container is made from on this host, with the name of no program in it."""
