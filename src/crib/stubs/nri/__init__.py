"""The Node Resource Interface; one package a version."""
