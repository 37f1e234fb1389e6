"""crib's own service beside the Container Runtime Interface; one package a version."""
