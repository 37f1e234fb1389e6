"""The Kubernetes Container Runtime Interface; one package a version."""
